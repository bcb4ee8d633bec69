"""HDF5 files that fail cleanly and contain all that they show.

*Writing.* If the disk is full, the HDF5 library cannot close a file, and may crash the process at exit. Therefore it
writes through a `Sink`, which stores the first error instead of raising it and ignores later writes. The writer asks
for the error.

*Reading.* HDF5 can show the content of other files as its own, through links, virtual data sets and external storage.
`member_of` refuses all of them: a file from elsewhere must not make a program read other files of its user.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from bagpipe_hpc.errors import DatasetError

LIBVER = ("v110", "v110")  # checksums in all metadata, so damage is found before it is parsed, which could crash
HDF5_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError)


class ForeignStorageError(ValueError):
    """A part of an HDF5 file is stored elsewhere."""


class Sink(io.FileIO):
    """A file whose writes never raise. The first error is in `fault`."""

    fault: OSError | None = None

    def write(self, content: Any, /) -> int:
        view = memoryview(content)
        try:
            written = 0
            while self.fault is None and written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.fault = error
        return len(view)

    def readinto(self, target: Any, /) -> int:
        """Read. Parts that a failed write left out read as zeros."""
        view = memoryview(target)
        num_read = super().readinto(view) or 0
        view[num_read:] = bytes(len(view) - num_read)
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return size or 0


def cannot_write(path: Path, error: OSError) -> DatasetError:
    """Return the error to raise when a write has failed."""
    return DatasetError(
        f"{path}: cannot be written ({error.strerror or error}); free space, fix permissions or choose another place"
    )


class NewHdf5File:
    """A new HDF5 file of a data set, open for writing.

    Args:
        path: The file; must not exist.
        cache_bytes: Memory for chunks that are not full yet; None: HDF5's default.
    Raises:
        DatasetError: The file cannot be written; names it and the cause.
    """

    def __init__(self, path: Path, cache_bytes: int | None = None) -> None:
        self._path = path
        try:
            self._sink = Sink(path, "x+")
        except OSError as error:
            raise cannot_write(path, error) from error
        self.h5 = h5py.File(self._sink, "w", libver=LIBVER, rdcc_nbytes=cache_bytes)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """At the end of the block, raise the first error of a write, if there was one in this file."""
        try:
            yield
        except HDF5_ERRORS:
            self._check()  # HDF5 itself may fail because an earlier write was lost: report that write
            raise
        self._check()

    def close(self) -> None:
        """Complete the file."""
        try:
            with self._sink, self.writing():
                self.h5.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def abandon(self) -> None:
        """Close the file in its present state, after an error."""
        with suppress(*HDF5_ERRORS), self._sink:
            self.h5.close()

    def _check(self) -> None:
        if self._sink.fault is not None:
            raise cannot_write(self._path, self._sink.fault)


@contextmanager
def writing_hdf5(path: Path) -> Iterator[h5py.File]:
    """Give a new file, which is complete at the end of the block. Arguments and errors are those of `NewHdf5File`."""
    new = NewHdf5File(path)
    try:
        with new.writing():
            yield new.h5
    except BaseException:
        new.abandon()
        raise
    new.close()


def member_of(group: h5py.Group, name: str) -> Any:
    """Return the member of a group with this name, which may contain slashes; None if there is none.

    Raises:
        ForeignStorageError: The member is a link, or is stored in another file or data set.
    """
    found: Any = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ForeignStorageError(f"/{name} is a link to something elsewhere, which is never followed")
        found = found[part]
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        raise ForeignStorageError(f"/{name} has its values in another file or data set, which is never read")
    return found


def is_locked(error: OSError) -> bool:
    """Return whether a file could not be opened because another program has opened it for writing."""
    return "unable to lock file" in str(error)


LOCKED = "is locked: another program has opened it for writing, so it is not complete, or is being changed"


def require_regular_file(path: Path) -> None:
    """Refuse paths that are not regular files: opening a pipe would block, and a device may have no end.

    Raises:
        OSError: The path leads to neither a regular file nor a directory, or does not exist.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("it is, or links to, a device, pipe or socket, not a regular file")
