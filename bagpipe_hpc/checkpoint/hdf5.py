"""HDF5 files that fail cleanly.

*Writing.* If the disk is full, the HDF5 library cannot close a file, and may crash the process at exit. Therefore it
writes through a `Sink` (data/hdf5.py), which stores the first error instead of raising it. The writer then asks for it.

*Reading.* All metadata and all chunks carry checksums. Any fault becomes an error that names the file. Reading never
follows references to data outside the file, and makes no array that is larger than its bytes in the file.
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

CHUNK_BYTES = 1 << 18  # of rows; a file consists of whole chunks, even if it has few rows

_LIBVER = ("v110", "v110")  # has checksums in all metadata
_MAX_CHUNK_BYTES = 1 << 26
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError)


class NewHdf5File:
    """An HDF5 file that is being written. Leaving the `with` block without an error syncs it to disk.

    Args:
        path: The file; must not exist.
    Raises:
        CheckpointError: The file cannot be written; names it and the cause.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._sink = Sink(path, "x+")
        self.h5 = h5py.File(self._sink, "w", libver=_LIBVER, rdcc_nbytes=16 * CHUNK_BYTES)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise, at the end of the block, the first error of a write so far."""
        try:
            yield
        except _ERRORS:
            self._check()  # HDF5 itself may fail because an earlier write was lost: report that write
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
    """Open a file. Errors of HDF5 inside the block count as faults of the file.

    Raises:
        CheckpointError: Names the file and the fault.
    """
    try:
        require_regular_file(path)
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; use another checkpoint") from None
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; fix its permissions") from error
    except _ERRORS as error:
        raise damaged(path, " ".join(str(error).split())) from error


def damaged(path: Path, fault: str) -> CheckpointError:
    """Return the error for a file that differs from what was written."""
    return CheckpointError(f"{path} is damaged: {fault}; use another checkpoint")


def not_finite(path: Path, what: str) -> CheckpointError:
    """Return the error for numbers from which training cannot continue."""
    return CheckpointError(
        f"{path}: {what} is not finite: training had diverged, or the file is damaged; use an earlier checkpoint"
    )


def chunk_rows(row_width: int) -> int:
    """Return the number of rows in an HDF5 chunk. Keys and slots have chunks of as many elements."""
    return max(1, CHUNK_BYTES // (4 * row_width))


def store_array(group: h5py.Group, name: str, array: NDArray[Any]) -> None:
    """Write an array of numbers of any dtype and shape."""
    if array.dtype.kind not in "biuf":
        raise CheckpointError(f"{name}: arrays of {array.dtype} cannot be saved; save numbers only")
    # HDF5 has chunks, and therefore checksums, only in datasets with at least one element and one axis.
    group.create_dataset(name, data=array, fletcher32=array.ndim > 0 and array.size > 0)


def load_array(group: h5py.Group, name: str) -> NDArray[Any]:
    """Return an array that `store_array` wrote, of its dtype and shape. Raises ValueError for anything else."""
    dataset = dataset_of(group, name)
    if dataset.dtype.kind not in "biuf":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, not numbers")
    if dataset.nbytes > dataset.id.get_storage_size():
        raise ValueError(f"{dataset.name} has {dataset.nbytes} bytes, but the file holds fewer")
    array: NDArray[Any] = np.asarray(dataset[()])
    return array


def dataset_of(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that is stored in the file itself, in chunks of allowed size. Raises ValueError otherwise."""
    dataset = member_of(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"there is no data set {name} in {group.name}")
    filters = dataset.id.get_create_plist()
    unknown = {filters.get_filter(index)[0] for index in range(filters.get_nfilters())} - _FILTERS
    if unknown or (dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES):
        raise ValueError(f"{dataset.name} has chunks or filters that no checkpoint has")
    return dataset


def group_of(group: h5py.Group, name: str) -> h5py.Group:
    """Return a group that is stored in the file itself. Raises ValueError for anything else."""
    found = member_of(group, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"there is no group {name} in {group.name}")
    return found
