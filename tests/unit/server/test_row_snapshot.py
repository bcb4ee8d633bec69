"""A snapshot has the rows of its moment, whatever is written while it is read."""

from __future__ import annotations

import threading
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bagpipe_hpc.server.row_snapshot import RowSnapshot

NUM_ROWS, WIDTH = 40, 3


def snapshot_of(rows: NDArray[np.float32], kept: NDArray[np.int64]) -> RowSnapshot:
    is_needed = np.zeros(len(rows), dtype=np.bool_)

    def find() -> NDArray[np.int64]:
        is_needed[kept] = True
        return kept

    return RowSnapshot(rows, is_needed, find)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rows_overwritten_before_they_are_read_are_set_aside(data: st.DataObject) -> None:
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
            snapshot.set_aside(written)
            rows[written] = -1.0 - number
        piece = next(pieces, None)
        if piece is None:
            break
        found_rows.append(piece[0])
        found.append(piece[1])
    np.testing.assert_array_equal(np.concatenate(found_rows), kept)
    np.testing.assert_array_equal(np.concatenate(found), before[kept])


def test_a_reader_and_a_writer_at_the_same_time() -> None:
    rows = np.zeros((20_000, 8), dtype=np.float32)
    snapshot = snapshot_of(rows, np.arange(0, len(rows), 2))
    found: list[NDArray[np.float32]] = []

    def read() -> None:
        time.sleep(0.01)
        snapshot.find_rows()
        found.extend(rows for _, rows in snapshot.pieces(64))

    reader = threading.Thread(target=read)
    random = np.random.default_rng(0)
    reader.start()
    while reader.is_alive():
        written = random.choice(len(rows), 500, replace=False)
        snapshot.set_aside(written)
        rows[written] = 1.0
    assert not np.concatenate(found).any()
    assert snapshot.stall_seconds > 0
