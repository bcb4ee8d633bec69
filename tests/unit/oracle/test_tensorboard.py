"""Event files, read back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from bagpipe_hpc.oracle.tensorboard import TensorBoard

Points = dict[str, list[tuple[int, float]]]


def events(path: Path) -> Iterator[Event]:
    """Records of one file: length, its checksum, the event, its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event, (checksum,) = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])
        rotated = crc32c(event)
        assert checksum == ((rotated >> 15 | rotated << 17) + 0xA282EAD8) & 0xFFFFFFFF
        yield Event.FromString(event)
        content = content[16 + length :]


def points(directory: Path) -> Points:
    """As TensorBoard shows them: a start forgets what earlier files have from its step on."""
    found: Points = {}
    for path in sorted(directory.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                found = {tag: [point for point in curve if point[0] < event.step] for tag, curve in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def write(directory: Path, first_iteration: int, *steps: int) -> None:
    board = TensorBoard(directory, first_iteration)
    for step in steps:
        board.add(step, {"train/loss": step / 4, "eval/auc": None if step % 2 else 0.5})
    board.close()


def test_curves(tmp_path: Path) -> None:
    write(tmp_path / "board", 0, 1, 2)
    assert points(tmp_path / "board") == {"train/loss": [(1, 0.25), (2, 0.5)], "eval/auc": [(2, 0.5)]}


def test_going_on_has_no_point_twice(tmp_path: Path) -> None:
    write(tmp_path / "board", 0, 1, 2, 3, 4)
    write(tmp_path / "board", 2, 1, 2, 3, 5)  # what earlier starts had, and what comes
    assert points(tmp_path / "board")["train/loss"] == [(step, step / 4) for step in (1, 2, 3, 5)]


def test_going_on_elsewhere_has_all_points(tmp_path: Path) -> None:
    write(tmp_path / "board", 2, 1, 2, 3)
    assert [step for step, _ in points(tmp_path / "board")["train/loss"]] == [1, 2, 3]


def test_a_fresh_start_forgets_all(tmp_path: Path) -> None:
    write(tmp_path / "board", 0, 1, 2)
    write(tmp_path / "board", 0, 3)
    assert [step for step, _ in points(tmp_path / "board")["train/loss"]] == [3]


@pytest.mark.parametrize("step", [1, 3])
def test_a_disk_that_fails_ends_the_curves_only(tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int) -> None:
    (tmp_path / "board").write_text("in the way")
    write(tmp_path / "board", 0, step)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"bagpipe: note: {tmp_path}/board cannot be written: File exists; training goes on without")
