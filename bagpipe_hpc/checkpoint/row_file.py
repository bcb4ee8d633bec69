"""A file of rows by key: the rows of one embedding server, or those in one trainer's cache.

Keys are strictly ascending. A trainer's file also has the slot of each row, and whether the row is *dirty*. A dirty row
was updated since it was fetched, so it supersedes the server's row with the same key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc.checkpoint.hdf5 import (
    NewHdf5File,
    chunk_rows,
    damaged,
    dataset_of,
    group_of,
    not_finite,
    reading,
)
from bagpipe_hpc.checkpoint.manifest import RowEncoding
from bagpipe_hpc.checkpoint.merge import Rows
from bagpipe_hpc.checkpoint.tree import Tree, load_tree, store_tree
from bagpipe_hpc.errors import CheckpointError

FORMAT = "bagpipe_hpc.checkpoint.rows"
FORMAT_VERSION = 1

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

Compression = Literal["gzip", "lzf"]

_NAN_BITS = np.uint16(0x7FC0)
_STATE = "state"
_VERIFY_BYTES = 16 << 20  # bytes of rows that are checked at a time
_ROW_DTYPES: dict[str, DTypeLike] = {"float32": np.float32, "bfloat16": np.uint16}


@dataclass(frozen=True)
class RowOptions:
    """How rows are stored.

    Args:
            encoding: "bfloat16" rounds every column to 16 bits. This halves the bytes, but the state is no longer
                exact.
        compression: None, "lzf" or "gzip".
    """

    encoding: RowEncoding = "float32"
    compression: Compression | None = None


@dataclass(frozen=True)
class CachedSlots:
    """The content of a trainer's cache: keys int64 (n,) ascending, slots int32 (n,), dirty bool (n,)."""

    keys: Int64Array
    slots: NDArray[np.int32]
    dirty: NDArray[np.bool_]


@dataclass(frozen=True)
class CachedRows(CachedSlots):
    """The content of a trainer's cache with its rows, float32 (n, row_width)."""

    rows: Float32Array


class RowFileWriter:
    """Appends rows to a new file in pieces. Memory does not grow with the file.

    Args:
        path: The file; must not exist.
        row_width: float32 columns of a row.
        options: How rows are stored.
        is_cache: Whether rows have slots.
    Raises:
        CheckpointError: Keys do not ascend, or the file cannot be written.
    """

    def __init__(self, path: Path, row_width: int, options: RowOptions, *, is_cache: bool) -> None:
        self._options = options
        self._num_rows = 0
        self._last_key = -1
        self._new = NewHdf5File(path)
        columns = _columns(_ROW_DTYPES[options.encoding], row_width, is_cache=is_cache)
        self._datasets = {name: self._create(name, *column, chunk_rows(row_width)) for name, column in columns.items()}

    def append(self, keys: Int64Array, rows: Float32Array) -> None:
        """Append rows of a server: keys int64 (n,), rows float32 (n, row_width)."""
        self._append(keys, {"rows": self._encoded(rows)})

    def append_cached(self, piece: CachedRows) -> None:
        """Append rows of a cache."""
        columns = {"slots": piece.slots, "dirty": piece.dirty, "rows": self._encoded(piece.rows)}
        self._append(piece.keys, columns)

    def store_state(self, state: Tree) -> None:
        """Store all other state of the rank, such as its random number generators."""
        store_tree(self._new.h5.create_group(_STATE), state)

    def __enter__(self) -> RowFileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self._new.h5.attrs.update(
                format=FORMAT, format_version=FORMAT_VERSION, num_rows=self._num_rows, encoding=self._options.encoding
            )
        self._new.__exit__(kind, *rest)

    def _create(self, name: str, dtype: DTypeLike, width: tuple[int, ...], rows_per_chunk: int) -> h5py.Dataset:
        return self._new.h5.create_dataset(
            name,
            (0, *width),
            dtype,
            maxshape=(None, *width),
            chunks=(rows_per_chunk, *width),
            compression=self._options.compression,
            shuffle=self._options.compression is not None,
            fletcher32=True,
        )

    def _append(self, keys: Int64Array, columns: dict[str, NDArray[Any]]) -> None:
        if len(keys) == 0:
            return
        if keys[0] <= self._last_key or (np.diff(keys) <= 0).any():
            raise CheckpointError(f"{self._new.path}: keys must ascend, but those from {keys[0]} on do not")
        self._last_key = int(keys[-1])
        stop = self._num_rows + len(keys)
        with self._new.writing():
            for name, values in {"keys": keys, **columns}.items():
                self._datasets[name].resize(stop, axis=0)
                self._datasets[name][self._num_rows :] = values
        self._num_rows = stop

    def _encoded(self, rows: Float32Array) -> NDArray[Any]:
        return rows if self._options.encoding == "float32" else to_bfloat16(rows)


@dataclass(frozen=True)
class RowFile:
    """A file that `RowFileWriter` made.

    Args:
        path: The file.
        row_width: Number of columns that its rows must have.
        num_keys: Keys must lie in [0, num_keys).
        cache_rows: Number of slots of a trainer's cache; None: the file is a server's.
        shard: For a server's file: the server's index and the number of servers. The server of a key is `key % S`.
    """

    path: Path
    row_width: int
    num_keys: int
    cache_rows: int | None = None
    shard: tuple[int, int] = (0, 1)

    def pieces(self, rows_per_piece: int) -> Iterator[Rows]:
        """Yield rows in pieces in ascending key order; of a cache, only the dirty rows.

        The file is open only while a piece is read, so any number of files can be read side by side.

        Yields:
            Keys int64, shape (n,); rows float32, shape (n, row_width).
        Raises:
            CheckpointError: The file is missing, damaged or of another kind; names the file.
        """
        for columns in self._read(("keys", "rows", "dirty"), rows_per_piece):
            keys, rows, dirty = columns["keys"], columns["rows"], columns.get("dirty")
            yield (keys, rows) if dirty is None else (keys[dirty], rows[dirty])

    def cached_pieces(self, rows_per_piece: int) -> Iterator[CachedRows]:
        """Yield all rows of a cache, in ascending key order."""
        for columns in self._read(("keys", "rows", "slots", "dirty"), rows_per_piece):
            yield CachedRows(**columns)

    def slot_pieces(self, rows_per_piece: int) -> Iterator[CachedSlots]:
        """Yield the same as `cached_pieces`, without the rows themselves."""
        for columns in self._read(("keys", "slots", "dirty"), rows_per_piece):
            yield CachedSlots(**columns)

    def state(self) -> Tree:
        """Return what `store_state` wrote."""
        with reading(self.path) as file:
            return load_tree(group_of(file, _STATE))

    def num_rows(self) -> int:
        """Return the number of rows in the file."""
        with reading(self.path) as file:
            return self._checked_num_rows(file)

    def verify(self) -> None:
        """Check the whole file against its format and the manifest. Raises CheckpointError if they differ."""
        names = ("keys", "rows", *(("slots", "dirty") if self.cache_rows is not None else ()))
        slots = [columns.get("slots") for columns in self._read(names, max(1, _VERIFY_BYTES // (4 * self.row_width)))]
        if self.cache_rows is not None:
            self.state()
            self._require_distinct_slots([some for some in slots if some is not None])

    def _read(self, names: tuple[str, ...], rows_per_piece: int) -> Iterator[dict[str, Any]]:
        start, last_key, num_rows = 0, -1, self.num_rows()
        if self.cache_rows is None:
            names = tuple(name for name in names if name in ("keys", "rows"))
        while start < num_rows:
            with reading(self.path) as file:
                columns = {name: dataset_of(file, name)[start : start + rows_per_piece] for name in names}
            keys = columns["keys"]
            if keys[0] <= last_key or keys[-1] >= self.num_keys or (np.diff(keys) <= 0).any():
                raise damaged(self.path, f"keys from row {start} on do not ascend within [0, {self.num_keys})")
            self._check_shard(keys)
            if "rows" in columns:
                columns["rows"] = self._checked_rows(keys, columns["rows"])
            if "slots" in columns:
                self._check_slots(columns["slots"])
            yield columns
            start, last_key = start + len(keys), int(keys[-1])

    def _check_shard(self, keys: Int64Array) -> None:
        server, num_servers = self.shard
        foreign = keys % num_servers != server
        if foreign.any():
            raise damaged(self.path, f"key {keys[foreign][0]} does not belong to server {server} of {num_servers}")

    def _checked_rows(self, keys: Int64Array, rows: NDArray[Any]) -> Float32Array:
        if rows.dtype == np.uint16:
            rows = from_bfloat16(rows)
        is_finite = np.isfinite(rows).all(axis=1)
        if not is_finite.all():
            raise not_finite(self.path, f"the row of key {keys[~is_finite][0]}")
        return rows

    def _check_slots(self, slots: NDArray[np.int32]) -> None:
        assert self.cache_rows is not None
        outside = (slots < 0) | (slots >= self.cache_rows)
        if outside.any():
            raise damaged(self.path, f"slot {slots[outside][0]} is not one of the {self.cache_rows} slots of a cache")

    def _require_distinct_slots(self, pieces: list[NDArray[np.int32]]) -> None:
        slots, counts = np.unique(np.concatenate([np.empty(0, np.int32), *pieces]), return_counts=True)
        if (counts > 1).any():
            raise damaged(self.path, f"two rows have slot {slots[counts > 1][0]}")

    def _checked_num_rows(self, file: h5py.File) -> int:
        found = file.attrs.get("format"), file.attrs.get("format_version")
        if found != (FORMAT, FORMAT_VERSION):
            raise damaged(self.path, f"format and version are {found}, not {(FORMAT, FORMAT_VERSION)}")
        num_rows = file.attrs["num_rows"]
        if not isinstance(num_rows, np.integer) or not 0 <= num_rows <= self.num_keys:
            raise damaged(self.path, f"num_rows is {num_rows!r}, not 0 to {self.num_keys}")
        encoding = file.attrs["encoding"]
        if encoding not in _ROW_DTYPES:
            raise damaged(self.path, f"encoding is {encoding!r}, not one of {', '.join(_ROW_DTYPES)}")
        expected = _columns(_ROW_DTYPES[encoding], self.row_width, is_cache=self.cache_rows is not None)
        for name, (dtype, width) in expected.items():
            dataset = dataset_of(file, name)
            if dataset.dtype != dtype or dataset.shape != (num_rows, *width):
                raise damaged(
                    self.path,
                    f"/{name} is {dataset.dtype} of shape {dataset.shape}, not {np.dtype(dtype)} of "
                    f"{(int(num_rows), *width)}",
                )
        return int(num_rows)


def _columns(row_dtype: DTypeLike, row_width: int, *, is_cache: bool) -> dict[str, tuple[DTypeLike, tuple[int, ...]]]:
    """Return the datasets of a file: for each name the dtype and the shape of an element."""
    columns: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {"keys": (np.int64, ()), "rows": (row_dtype, (row_width,))}
    return columns | {"slots": (np.int32, ()), "dirty": (np.bool_, ())} if is_cache else columns


def to_bfloat16(rows: Float32Array) -> NDArray[np.uint16]:
    """Return the upper halves of float32 values, rounded to nearest, ties to even: uint16, shape as rows."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    rounded[np.isnan(rows)] = _NAN_BITS
    return rounded


def from_bfloat16(halves: NDArray[np.uint16]) -> Float32Array:
    """Return the values whose upper halves are given: float32, shape as halves."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
