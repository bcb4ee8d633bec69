"""Small files and names that survive a power failure, and checksums of files."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bagpipe_hpc.checkpoint.file_names import DISCARDED
from bagpipe_hpc.checkpoint.manifest import FileEntry
from bagpipe_hpc.errors import CheckpointError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system inside the block into errors that the user can fix.

    Raises:
        CheckpointError: Names the path, the cause and the cure.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CheckpointError:
    """Return the error to raise when a write has failed."""
    return CheckpointError(
        f"{path} cannot be written: {error.strerror or error}; free space, fix permissions or choose another directory"
    )


def sync_directory(path: Path) -> None:
    """Make names that were created in, renamed in or removed from a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Create a file and sync its content to disk. The caller syncs the directory."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader sees either the old or the new content."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        write_durably(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def move_away(path: Path) -> Path | None:
    """Rename a directory so that nobody sees it half deleted; return its new path, or None if it is missing."""
    moved = path.with_name(f"{DISCARDED}{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    try:
        return path.rename(moved)
    except FileNotFoundError:
        return None


def discard_directory(path: Path) -> None:
    """Delete a directory if it exists."""
    moved = move_away(path)
    if moved is not None:
        shutil.rmtree(moved, ignore_errors=True)


def file_entry(path: Path) -> FileEntry:
    """Return the size and SHA-256 of a finished file. It is read once, from memory if it was just written."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(name=path.name, num_bytes=file.tell(), sha256=digest)
