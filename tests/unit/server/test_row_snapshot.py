"""A snapshot has the rows of its moment, whatever is written while it is read."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bagpipe_hpc.server import row_snapshot
from bagpipe_hpc.server.row_snapshot import RowSnapshot

NUM_ROWS, WIDTH = 40, 3
SECONDS = 30  # after which a thread that hangs fails its test


def snapshot_of(rows: NDArray[np.float32], kept: NDArray[np.int64]) -> RowSnapshot:
    is_needed = np.zeros(len(rows), dtype=np.bool_)

    def find() -> NDArray[np.int64]:
        is_needed[kept] = True
        return kept

    return RowSnapshot(rows, is_needed, find)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rows_overwritten_before_they_are_read_are_kept(data: st.DataObject) -> None:
    rows = np.arange(NUM_ROWS * WIDTH, dtype=np.float32).reshape(NUM_ROWS, WIDTH)
    before = rows.copy()
    subsets = st.lists(st.integers(0, NUM_ROWS - 1), unique=True)
    kept = np.sort(np.array(data.draw(subsets, label="kept"), dtype=np.int64))
    snapshot = snapshot_of(rows, kept)
    snapshot.find_rows()
    found_rows, found = [np.empty(0, np.int64)], [np.empty((0, WIDTH), np.float32)]
    pieces = snapshot.pieces(data.draw(st.integers(1, 9), label="rows_per_piece"))
    while True:
        for number in range(data.draw(st.integers(0, 2), label="writes")):
            written = np.array(data.draw(subsets, label="written"), dtype=np.int64)
            snapshot.keep(written)
            rows[written] = -1.0 - number
        piece = next(pieces, None)
        if piece is None:
            break
        found_rows.append(piece[0])
        found.append(piece[1])
    np.testing.assert_array_equal(np.concatenate(found_rows), kept)
    np.testing.assert_array_equal(np.concatenate(found), before[kept])


class WatchedEvent(threading.Event):
    """Says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.is_awaited.set()
        return super().wait(timeout)


def test_rows_are_not_overwritten_before_they_are_found() -> None:
    events: list[str] = []
    is_found = WatchedEvent()

    def find() -> NDArray[np.int64]:
        assert is_found.is_awaited.wait(SECONDS)
        events.append("found")
        return np.arange(2)

    snapshot = RowSnapshot(np.zeros((4, 1), np.float32), np.zeros(4, np.bool_), find)
    snapshot._is_found = is_found

    def write() -> None:
        snapshot.keep(np.arange(4))
        events.append("may overwrite")

    writer = threading.Thread(target=write)
    writer.start()
    snapshot.find_rows()
    writer.join(SECONDS)
    assert events == ["found", "may overwrite"]


def test_a_reader_and_a_writer_at_the_same_time() -> None:
    rows = np.zeros((20_000, 8), dtype=np.float32)
    kept = np.arange(0, len(rows), 2)
    snapshot = snapshot_of(rows, kept)
    found: list[NDArray[np.float32]] = []
    is_first_read, is_first_written = threading.Event(), threading.Event()

    def read() -> None:
        snapshot.find_rows()
        for _, piece in snapshot.pieces(64):
            found.append(piece)
            is_first_read.set()
            is_first_written.wait(SECONDS)

    reader = threading.Thread(target=read)
    random = np.random.default_rng(0)
    reader.start()
    is_first_read.wait(SECONDS)
    while reader.is_alive():
        written = random.choice(len(rows), 500, replace=False)
        snapshot.keep(written)
        rows[written] = 1.0
        is_first_written.set()
    assert np.concatenate(found).shape == (len(kept), 8)
    assert not np.concatenate(found).any()
    assert rows[kept[64:]].any()  # overwritten while the reader waited to go on


def test_the_stall_is_that_of_the_thread_that_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = snapshot_of(np.zeros((4, 1), np.float32), np.arange(2))
    readings = iter([10.0, 11.5, 20.0, 20.25])
    monkeypatch.setattr(row_snapshot, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    snapshot.find_rows()
    for row in range(2):
        snapshot.keep(np.array([row]))
    assert snapshot.stall_seconds == 1.75
