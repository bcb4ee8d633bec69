"""HDF5 files that fail cleanly.

*Writing.* The HDF5 library cannot close a file whose disk is full, and may crash the process at exit. So it writes
through a `Sink` (data/hdf5.py), which keeps the first error to itself; the writer asks for it.

*Reading.* All metadata and all chunks carry checksums; whatever is wrong becomes an error that names the file. Nothing
that is stored outside the file is read, and no array that takes more memory than its bytes in the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.checkpoint.durable import cannot_write, writing
from bagpipe_hpc.data.hdf5 import Sink, member_of, require_regular_file
from bagpipe_hpc.errors import CheckpointError

CHUNK_BYTES = 1 << 18  # of rows; a file takes whole chunks, however few its rows

_LIBVER = ("v110", "v110")  # checksums in all metadata
_MAX_CHUNK_BYTES = 1 << 26
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError)


class NewHdf5File:
    """An HDF5 file being written; on disk, data and length, once the `with` block was left without an error.

    Args:
        path: The file; must not exist.
    Raises:
        CheckpointError: the file cannot be written; names it and the cause.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._sink = Sink(path, "x+")
        self.h5 = h5py.File(self._sink, "w", libver=_LIBVER, rdcc_nbytes=16 * CHUNK_BYTES)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise, at the end of the block, what went wrong so far."""
        try:
            yield
        except _ERRORS:
            self._check()  # HDF5 may stumble over what a swallowed write left out
            raise
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path) if kind is None else suppress(*_ERRORS, CheckpointError), self._sink:
            with self.writing():
                self.h5.close()
            os.fsync(self._sink.fileno())

    def _check(self) -> None:
        if self._sink.fault is not None:
            raise cannot_write(self.path, self._sink.fault)


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open a file; errors of HDF5 inside the block are faults of the file.

    Raises:
        CheckpointError: names the file and the fault.
    """
    try:
        require_regular_file(path)
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; use another checkpoint") from None
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; mend permissions") from error
    except _ERRORS as error:
        raise damaged(path, " ".join(str(error).split())) from error


def damaged(path: Path, fault: str) -> CheckpointError:
    """What to say of a file that is not as it was written."""
    return CheckpointError(f"{path} is damaged: {fault}; use another checkpoint")


def not_finite(path: Path, what: str) -> CheckpointError:
    """What to say of numbers that no training goes on from."""
    return CheckpointError(
        f"{path}: {what} is not finite: training had diverged, or the file is damaged; use an earlier checkpoint"
    )


def chunk_rows(row_width: int) -> int:
    """Rows of an HDF5 chunk; keys and slots are chunked alike."""
    return max(1, CHUNK_BYTES // (4 * row_width))


def store_array(group: h5py.Group, name: str, array: NDArray[Any]) -> None:
    """Write an array of numbers of any shape."""
    if array.dtype.kind not in "biuf":
        raise CheckpointError(f"{name}: arrays of {array.dtype} cannot be saved; save numbers only")
    # HDF5 has chunks, and so checksums, only where there is an element and an axis.
    group.create_dataset(name, data=array, fletcher32=array.ndim > 0 and array.size > 0)


def load_array(group: h5py.Group, name: str) -> NDArray[Any]:
    """What `store_array` wrote; ValueError for anything else."""
    dataset = dataset_of(group, name)
    if dataset.dtype.kind not in "biuf":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, not numbers")
    if dataset.nbytes > dataset.id.get_storage_size():
        raise ValueError(f"{dataset.name} has {dataset.nbytes} bytes, of which the file holds fewer")
    array: NDArray[Any] = np.asarray(dataset[()])
    return array


def dataset_of(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set that is in the file itself, in pieces that are not too large; ValueError for anything else."""
    dataset = member_of(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"there is no data set {name} in {group.name}")
    filters = dataset.id.get_create_plist()
    unknown = {filters.get_filter(index)[0] for index in range(filters.get_nfilters())} - _FILTERS
    if unknown or (dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES):
        raise ValueError(f"{dataset.name} has chunks or filters that no checkpoint has")
    return dataset


def group_of(group: h5py.Group, name: str) -> h5py.Group:
    """A group that is in the file itself; ValueError for anything else."""
    found = member_of(group, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"there is no group {name} in {group.name}")
    return found
