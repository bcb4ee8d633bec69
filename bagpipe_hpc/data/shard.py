"""A shard: one HDF5 file of consecutive samples. docs/data.md specifies the layout."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, get_args

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import ValidationError

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.bounded_json import parse_json
from bagpipe_hpc.data.checks import SampleChecks
from bagpipe_hpc.data.hdf5 import (
    HDF5_ERRORS,
    LOCKED,
    ForeignStorageError,
    NewHdf5File,
    is_locked,
    member_of,
    require_regular_file,
)
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import ConfigError, DatasetError
from bagpipe_hpc.sharding import Int64Array

FORMAT = "bagpipe_hpc.shard"
FORMAT_VERSION = 1

Compression = Literal["gzip", "lzf"]

_CHUNK_ROWS = 8192
_CHUNK_BYTES = 4 << 20  # if samples are very wide, a chunk has fewer of them
_CHUNK_CACHE_BYTES = 2 * _CHUNK_BYTES  # a batch may end inside a chunk: keep it, so that it is decompressed only once
_RAGGED_CHUNK_IDS = 65_536
_ELEMENTS = "elements"  # group of the values of a sequence
_TIMES = "times"
_ELEMENT_DTYPES: dict[str, type[np.float32] | type[np.int64]] = {"real": np.float32, "integer": np.int64}

_MEND = "copy it again from where it was made, or make the data set again"


class ShardWriter:
    """Writes one shard in pieces. Memory does not grow with the shard.

    Args:
        path: The file; must not exist.
        schema: The schema that every sample must fit.
        compression: None (fastest to read), "gzip" (smallest) or "lzf" (in between; h5py only).
    Raises:
        ConfigError: The compression is unknown.
        DatasetError: A sample does not fit the schema, or the file cannot be written.
    """

    def __init__(self, path: Path, schema: Schema, compression: Compression | None = None) -> None:
        if compression is not None and compression not in get_args(Compression):
            raise ConfigError(f"compression is {compression!r}, but must be one of {get_args(Compression)} or absent")
        self.num_samples = 0
        self._path = path
        self._schema = schema
        self._compression = compression
        self._checks = SampleChecks(path, schema, "fix the source of the samples, or the schema")
        self._last_time: int | None = None
        self._new = NewHdf5File(path, _CHUNK_CACHE_BYTES)
        self._file = self._new.h5
        try:
            with self._new.writing():
                self._create_datasets()
        except BaseException:
            self._new.abandon()
            raise

    def append(self, batch: Batch) -> None:
        """Append samples."""
        columns = self._columns_of(batch)
        ragged = {table.name: self._bags_of(batch, table) for table in self._schema.ragged_tables}
        with self._new.writing():
            for name, values in columns.items():
                _extend(self._file[name], values)
            for name, piece in ragged.items():
                group = self._file["ragged"][name]
                _extend(group["offsets"], len(group["ids"]) + piece.offsets[1:])
                _extend(group["ids"], piece.ids)
                for column, values in _values_of(piece).items():
                    _extend(group[column], values)
        self.num_samples += batch.num_samples

    def close(self) -> None:
        """Complete the file. Only then does it record how many samples it holds."""
        try:
            with self._new.writing():
                self._file.attrs["num_samples"] = self.num_samples
        except BaseException:
            self._new.abandon()
            raise
        self._new.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._new.abandon()

    def _create_datasets(self) -> None:
        schema, attributes = self._schema, self._file.attrs
        attributes["format"] = FORMAT
        attributes["format_version"] = FORMAT_VERSION
        attributes["schema"] = schema.model_dump_json()
        for name, (width, dtype) in _columns(schema).items():
            self._create(name, (0, *width), dtype)
        for table in schema.ragged_tables:
            offsets = self._create(f"ragged/{table.name}/offsets", (1,), np.int64)
            offsets[0] = 0
            for name, dtype in _ragged_columns(table, self._schema).items():
                self._create(f"ragged/{table.name}/{name}", (0,), dtype, chunk_rows=_RAGGED_CHUNK_IDS)

    def _create(
        self, name: str, shape: tuple[int, ...], dtype: DTypeLike, *, chunk_rows: int = _CHUNK_ROWS
    ) -> h5py.Dataset:
        row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
        return self._file.create_dataset(
            name,
            shape,
            dtype,
            maxshape=(None, *shape[1:]),
            chunks=(max(1, min(chunk_rows, _CHUNK_BYTES // row_bytes)), *shape[1:]),
            compression=self._compression,
            shuffle=self._compression is not None,
            fletcher32=True,
        )

    def _columns_of(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Return the batch as the datasets of the file, checked."""
        given: dict[str, NDArray[Any]] = {"labels": batch.labels, "dense": batch.dense, "one_hot": batch.ids}
        for name, column in (
            ("sample_weights", batch.sample_weights),
            ("groups", batch.groups),
            (_TIMES, batch.times),
        ):
            if (column is not None) != (name in _columns(self._schema)):
                raise DatasetError(
                    f"{self._path}: the batch has {'no ' if column is None else ''}{name}, contrary to the schema; fix "
                    "the source of the samples, or the schema"
                )
            if column is not None:
                given[name] = column
        for name, values in given.items():
            default = self._schema.label_shape if name == "labels" else (0,)
            width, _ = _columns(self._schema).get(name, (default, None))
            if values.shape != (batch.num_samples, *width):
                raise DatasetError(
                    f"{self._path}: {name} of a batch has shape {values.shape}, but the schema needs "
                    f"{(batch.num_samples, *width)}; fix the source of the samples, or the schema"
                )
        if not np.issubdtype(batch.ids.dtype, np.integer):
            raise DatasetError(
                f"{self._path}: row ids of a batch are {batch.ids.dtype}, but must be integers; fix the source of the "
                "samples"
            )
        checked = {
            "labels": batch.labels,
            "dense": self._checks.dense(np.ascontiguousarray(batch.dense, np.float32), self.num_samples),
            "one_hot": self._checks.ids(batch.ids, self.num_samples).astype(
                _id_dtype(self._schema.one_hot_tables, self._schema), copy=False
            ),
        }
        if self._schema.labelled:
            checked["labels"] = self._checks.labels(np.ascontiguousarray(batch.labels, np.float32), self.num_samples)
        if batch.sample_weights is not None:
            weights = np.ascontiguousarray(batch.sample_weights, np.float32)
            checked["sample_weights"] = self._checks.sample_weights(weights, self.num_samples)
        if batch.groups is not None:
            checked["groups"] = batch.groups
        if batch.times is not None:
            if not np.issubdtype(batch.times.dtype, np.integer):
                raise DatasetError(
                    f"{self._path}: times of a batch are {batch.times.dtype}, but must be integers; fix the source of "
                    "the samples"
                )
            checked[_TIMES] = times = self._checks.times(batch.times, self.num_samples, self._last_time)
            self._last_time = int(times[-1]) if len(times) else self._last_time
        return {name: checked[name] for name in _columns(self._schema)}

    def _bags_of(self, batch: Batch, table: TableSchema) -> Bags:
        if table.name not in batch.bags or len(batch.bags[table.name].offsets) != batch.num_samples + 1:
            raise DatasetError(
                f"{self._path}: the batch has no row ids of ragged table '{table.name}', or not "
                f"{batch.num_samples + 1} offsets; fix the source of the samples, or the schema"
            )
        piece = batch.bags[table.name]
        offsets = self._checks.offsets(table, piece.offsets, len(piece.ids), self.num_samples)
        if (None if piece.weights is None else len(piece.weights)) != (len(piece.ids) if table.weighted else None):
            raise DatasetError(
                f"{self._path}: the batch has {'no weight for each row id' if table.weighted else 'weights'} of ragged "
                f"table '{table.name}', contrary to the schema; fix the source of the samples, or the schema"
            )
        given = {name: (values.shape, values.dtype) for name, values in piece.elements.items()}
        if piece.ids.ndim != 1 or not np.issubdtype(piece.ids.dtype, np.integer):
            raise DatasetError(
                f"{self._path}: the row ids of ragged table '{table.name}' are {piece.ids.dtype} of shape "
                f"{piece.ids.shape}, but must be integers of shape (n,); fix the source of the samples"
            )
        if given != {e.name: (piece.ids.shape, np.dtype(_ELEMENT_DTYPES[e.kind])) for e in table.elements}:
            needed = ", ".join(f"{e.name} ({_ELEMENT_DTYPES[e.kind].__name__})" for e in table.elements)
            raise DatasetError(
                f"{self._path}: sequence '{table.name}' of the batch needs these values for each of its "
                f"{len(piece.ids)} ids: {needed or 'none'}; fix the source of the samples, or the schema"
            )
        leader = None if table.along is None else batch.bags.get(table.along)
        if (
            leader is not None
            and len(leader.offsets) == len(piece.offsets)
            and (not np.array_equal(piece.offsets, leader.offsets))
        ):
            lengths, others = np.diff(piece.offsets), np.diff(leader.offsets)
            sample = int(np.argmin(lengths == others))
            self._checks.refuse_length(table, self.num_samples + sample, int(lengths[sample]), int(others[sample]))
        bags = Bags(offsets, piece.ids, piece.weights, piece.elements).slice(0, batch.num_samples)
        return self._checks.bags(table, bags, self.num_samples)


class ShardReader:
    """Reads one shard in any order, fastest sequentially. It checks every sample that it returns.

    Args:
        path: The file.
        schema: The schema that the file must have; None: any.
        with_times: Whether `read` returns the times of samples.
    Raises:
        DatasetError: The file is missing, damaged, foreign, of another version or schema; names file, cause and cure.
    """

    def __init__(self, path: Path, schema: Schema | None = None, *, with_times: bool = False) -> None:
        self._path = path
        self._with_times = with_times
        self._file = self._open()
        try:
            self._check_format()
            self.schema = self._read_schema(schema)
            self.num_samples = self._read_num_samples()
            self._check_datasets()
        except BaseException:
            self._file.close()
            raise
        self._checks = SampleChecks(
            path, self.schema, f"the file is damaged, or was not written by this package: {_MEND}"
        )
        self._columns = {name: self._file[name] for name in _columns(self.schema) if name != _TIMES}
        # To open a dataset takes longer than to read a small batch from it.
        self._ragged = {
            table.name: {
                name: self._file[f"ragged/{table.name}/{name}"]
                for name in ("offsets", *_ragged_columns(table, self.schema))
            }
            for table in self.schema.ragged_tables
        }

    @property
    def chunk_rows(self) -> int:
        """Samples per HDF5 chunk of the narrowest dataset."""
        chunks = self._first_dataset().chunks
        return int(chunks[0]) if chunks else self.num_samples

    @property
    def compression(self) -> str | None:
        """Compression filter of the shard's datasets; None: not compressed."""
        name: str | None = self._first_dataset().compression
        return name

    def read(self, start: int, stop: int) -> Batch:
        """Return samples [start, stop) of the shard; 0 <= start <= stop <= num_samples."""
        raw = {name: self._slice(dataset, start, stop) for name, dataset in self._columns.items()}
        num_samples = stop - start
        labels = np.zeros((num_samples, *self.schema.label_shape), np.float32)
        weights = raw.get("sample_weights")
        return Batch(
            labels=self._checks.labels(raw["labels"], start) if self.schema.labelled else labels,
            dense=self._checks.dense(raw.get("dense", np.empty((num_samples, 0), np.float32)), start),
            ids=self._checks.ids(raw.get("one_hot", np.empty((num_samples, 0), np.int32)), start),
            bags=self._checks.lengths(
                {table.name: self._read_bags(table, start, stop) for table in self.schema.ragged_tables}, start
            ),
            sample_weights=None if weights is None else self._checks.sample_weights(weights, start),
            groups=raw.get("groups"),
            times=self.times(start, stop) if self._with_times else None,
        )

    def times(self, start: int, stop: int, before: int | None = None) -> Int64Array:
        """Return the times of samples [start, stop) of the shard, int64, shape (stop - start,). The schema has times.

        Args:
            before: The time of the sample before them; None: any.
        Raises:
            DatasetError: They cannot be read, or a time is before the one before it.
        """
        return self._checks.times(self._slice(self._file[_TIMES], start, stop), start, before)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_dataset(self) -> h5py.Dataset:
        """Return the labels or, without labels, another dataset. Every schema has a column or a ragged table."""
        for dataset in self._columns.values():
            return dataset
        return self._ragged[self.schema.ragged_tables[0].name]["offsets"]

    def _read_bags(self, table: TableSchema, start: int, stop: int) -> Bags:
        datasets = self._ragged[table.name]
        offsets = self._slice(datasets["offsets"], start, stop + 1)
        offsets = self._checks.offsets(table, offsets, len(datasets["ids"]), start)
        first, last = int(offsets[0]), int(offsets[-1])
        ids = self._slice(datasets["ids"], first, last)
        weights = self._slice(datasets["weights"], first, last) if table.weighted else None
        elements = {
            element.name: self._slice(datasets[f"{_ELEMENTS}/{element.name}"], first, last)
            for element in table.elements
        }
        return self._checks.bags(table, Bags(offsets - offsets[0], ids, weights, elements), start)

    def _slice(self, dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = dataset[start:stop]
        except HDF5_ERRORS as error:
            self._refuse(f"samples from {start} on cannot be read ({error})", error)
        return values

    def _open(self) -> h5py.File:
        try:
            require_regular_file(self._path)
            return h5py.File(self._path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES, locking="best-effort")
        except FileNotFoundError as error:
            self._refuse("is missing", error)
        except OSError as error:
            self._refuse(_why_unreadable(self._path, error), error)

    def _check_format(self) -> None:
        name, version = self._attribute("format"), self._attribute("format_version")
        if not isinstance(name, str) or name != FORMAT:
            self._refuse(f"is an HDF5 file, but not a shard: its attribute format is {name!r}, not {FORMAT!r}")
        if not isinstance(version, int | np.integer) or version != FORMAT_VERSION:
            self._refuse(f"has format version {version}, but this release reads version {FORMAT_VERSION}")

    def _read_schema(self, expected: Schema | None) -> Schema:
        text = self._attribute("schema")
        if not isinstance(text, str):
            self._refuse("has no valid schema (it is not text)")
        try:
            schema = read_schema(text, self._path, _MEND)
        except ValidationError as error:
            self._refuse(f"has no valid schema ({first_fault(error)})", error)
        if expected is not None and schema != expected:
            difference = schema.difference(expected) or f"it has {'' if schema.labelled else 'no '}labels"
            self._refuse(f"has another schema than its data set: {difference}")
        return schema

    def _read_num_samples(self) -> int:
        num_samples = self._attribute("num_samples")
        if not isinstance(num_samples, int | np.integer):
            self._refuse("is incomplete: it has no attribute num_samples")
        return int(num_samples)

    def _check_datasets(self) -> None:
        for name, (width, dtype) in _columns(self.schema).items():
            self._check_dataset(name, (self.num_samples, *width), dtype)
        for table in self.schema.ragged_tables:
            self._check_dataset(f"ragged/{table.name}/offsets", (self.num_samples + 1,), np.int64)
            num_ids = -1
            for name, dtype in _ragged_columns(table, self.schema).items():
                self._check_dataset(f"ragged/{table.name}/{name}", (num_ids,), dtype)
                num_ids = len(self._file[f"ragged/{table.name}/{name}"])

    def _check_dataset(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Refuse a dataset of another shape or type. A length of -1 allows any length."""
        dataset = self._member(name)
        if not isinstance(dataset, h5py.Dataset):
            self._refuse(f"has no dataset /{name}")
        if dataset.dtype != dtype or dataset.shape is None or len(dataset.shape) != len(shape):
            self._refuse(f"/{name} is {dataset.dtype} of shape {dataset.shape}, not {np.dtype(dtype)} of {shape}")
        if any(length not in (-1, actual) for length, actual in zip(shape, dataset.shape, strict=True)):
            self._refuse(f"/{name} has shape {dataset.shape}, but schema and num_samples need {shape}")

    def _member(self, name: str) -> Any:
        try:
            return member_of(self._file, name)
        except ForeignStorageError as error:
            self._refuse(f"{error}")
        except HDF5_ERRORS as error:
            self._refuse(f"/{name} cannot be opened ({error})", error)

    def _attribute(self, name: str) -> Any:
        try:
            return self._file.attrs.get(name, "")
        except HDF5_ERRORS as error:
            self._refuse(f"attribute {name} cannot be read ({error})", error)

    def _refuse(self, fault: str, error: BaseException | None = None) -> NoReturn:
        raise DatasetError(f"{self._path}: {fault}; {_MEND}") from error


def _columns(schema: Schema) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
    """Return the datasets with one row per sample: shape of a row and dtype. Those without columns are left out."""
    columns: dict[str, tuple[tuple[int, ...], DTypeLike]] = {}
    if schema.labelled:
        columns["labels"] = (schema.label_shape, np.float32)
    if schema.num_dense:
        columns["dense"] = ((schema.num_dense,), np.float32)
    if schema.one_hot_tables:
        columns["one_hot"] = ((len(schema.one_hot_tables),), _id_dtype(schema.one_hot_tables, schema))
    if schema.weighted:
        columns["sample_weights"] = ((), np.float32)
    if schema.group is not None:
        columns["groups"] = ((), np.int64)
    if schema.time is not None:
        columns[_TIMES] = ((), np.int64)
    return columns


def _ragged_columns(table: TableSchema, schema: Schema) -> dict[str, DTypeLike]:
    """Return the datasets of a ragged table with one element per row id, and their dtypes."""
    columns: dict[str, DTypeLike] = {"ids": _id_dtype((table,), schema)}
    if table.weighted:
        columns["weights"] = np.float32
    return columns | {f"{_ELEMENTS}/{each.name}": _ELEMENT_DTYPES[each.kind] for each in table.elements}


def _values_of(bags: Bags) -> dict[str, NDArray[Any]]:
    """Return the datasets of a ragged table with one value per row id, without the ids."""
    values: dict[str, NDArray[Any]] = {f"{_ELEMENTS}/{name}": each for name, each in bags.elements.items()}
    return values if bags.weights is None else values | {"weights": bags.weights}


def _id_dtype(tables: tuple[TableSchema, ...], schema: Schema) -> DTypeLike:
    dynamic = {table.name for table in schema.dynamic_features}
    return np.int64 if any(each.name in dynamic or each.num_embeddings >= 2**31 for each in tables) else np.int32


def _extend(dataset: h5py.Dataset, values: NDArray[Any]) -> None:
    length = len(dataset)
    dataset.resize(length + len(values), axis=0)
    dataset[length:] = values


def _why_unreadable(path: Path, error: OSError) -> str:
    if path.is_dir():
        return "is a directory, not a shard"
    if path.is_file() and not h5py.is_hdf5(path):
        return f"is not an HDF5 file, or has lost its beginning ({path.stat().st_size} bytes)"
    if is_locked(error):
        return LOCKED
    if "truncated" in str(error):
        return f"is truncated: it ends after {path.stat().st_size} bytes ({error})"
    return f"cannot be opened ({error})"


def read_schema(text: str, path: Path, mend: str) -> Schema:
    """Return the schema in JSON text of the file at `path`. Integers and booleans are taken as they are, not converted.

    Raises:
        DatasetError: The text is not JSON, or exceeds the bounds of any schema.
        pydantic.ValidationError: It is not a schema.
    """
    tree = parse_json(text.encode("utf-8", "surrogatepass"), path, error=DatasetError, mend=mend)
    return Schema.model_validate_json(json.dumps(tree), strict=True)


def first_fault(error: ValidationError) -> str:
    """Return place and reason of the first error that pydantic found."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason
