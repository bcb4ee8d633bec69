"""`latest` and `best` carry a checksum."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.checkpoint.file_names import checkpoint_name
from bagpipe_hpc.checkpoint.pointer import named_by, write_pointer
from bagpipe_hpc.errors import CheckpointError

NAME = checkpoint_name(1000)


def test_a_pointer_names_a_checkpoint(tmp_path: Path) -> None:
    pointer = tmp_path / "latest"
    assert named_by(pointer) is None
    write_pointer(pointer, NAME)
    assert named_by(pointer) == tmp_path / NAME
    assert pointer.read_text().split(" ")[0] == NAME  # for people and scripts


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    pointer = tmp_path / "latest"
    write_pointer(pointer, NAME)
    content = pointer.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        pointer.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"latest is damaged: .* or delete this file"):
            named_by(pointer)


@pytest.mark.parametrize("content", [b"", NAME.encode(), NAME.encode() + b"\n", b"\xff" * 10, b"x" * 2000])
def test_what_is_no_pointer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best").write_bytes(content)
    with pytest.raises(CheckpointError, match="best"):
        named_by(tmp_path / "best")
