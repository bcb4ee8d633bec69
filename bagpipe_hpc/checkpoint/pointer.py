"""The files `latest` and `best`: one line with the name of a checkpoint, then the checksum of that name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bagpipe_hpc.bounded_json import read_bounded
from bagpipe_hpc.checkpoint.durable import replace_durably
from bagpipe_hpc.checkpoint.file_names import BEST, LATEST, iteration_of
from bagpipe_hpc.errors import CheckpointError

MAX_BYTES = 1 << 10


def write_pointer(path: Path, name: str) -> None:
    """Write a file that names a checkpoint, atomically."""
    replace_durably(path, _line(name))


def named_by(path: Path) -> Path | None:
    """Return the checkpoint that `latest` or `best` names; None if there is no such file.

    Raises:
        CheckpointError: The file is damaged, or names no checkpoint.
    """
    if not path.is_file():
        return None
    content = read_bounded(path, max_bytes=MAX_BYTES, error=CheckpointError, mend=_cure(path))
    name = content.decode("utf-8", errors="replace").partition(" ")[0]
    if content != _line(name):
        raise CheckpointError(f"{path} is damaged: its checksum does not match the name before it; {_cure(path)}")
    if iteration_of(name) is None:
        raise CheckpointError(f"{path} names {name[:80]!r}, which is no checkpoint; {_cure(path)}")
    return path.parent / name


def pointers_in(root: Path) -> list[Path]:
    """Return the files `latest` and `best` that a directory of checkpoints has."""
    return [root / name for name in (LATEST, BEST) if (root / name).exists()]


def _line(name: str) -> bytes:
    encoded = name.encode("utf-8", errors="replace")
    return encoded + b" sha256:" + hashlib.sha256(encoded).hexdigest().encode() + b"\n"


def _cure(path: Path) -> str:
    return f"name a checkpoint of {path.parent} itself, or delete this file"
