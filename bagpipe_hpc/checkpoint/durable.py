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
    """Errors of the file system inside the block become the user's to mend.

    Raises:
        CheckpointError: names path, cause and cure.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CheckpointError:
    """What to say of a write that failed."""
    return CheckpointError(
        f"{path} cannot be written: {error.strerror or error}; free space, mend permissions or choose another directory"
    )


def sync_directory(path: Path) -> None:
    """Make names created in, renamed in or removed from a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """A new file with its content on disk; the caller syncs the directory."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file at once: a reader sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        write_durably(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def set_aside(path: Path) -> Path | None:
    """Take a directory away at once, so that nobody sees it half deleted under its name; None if there is none."""
    aside = path.with_name(f"{DISCARDED}{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    try:
        return path.rename(aside)
    except FileNotFoundError:
        return None


def discard_directory(path: Path) -> None:
    """Delete a directory, if there is one."""
    aside = set_aside(path)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def file_entry(path: Path) -> FileEntry:
    """Size and SHA-256 of a finished file, by reading it once (just written, it comes from memory)."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(name=path.name, num_bytes=file.tell(), sha256=digest)
