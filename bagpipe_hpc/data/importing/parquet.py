"""Rows of Parquet files, in the types that text files give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from bagpipe_hpc.data.importing.description import Kind
from bagpipe_hpc.data.importing.grammar import describe_fault
from bagpipe_hpc.errors import DatasetError

BATCH_ROWS = 16_384
FLOAT32_MAX = float(np.finfo(np.float32).max)

_MAGIC = b"PAR1"
_WORDS: Mapping[Kind, str] = {
    "binary": "0 or 1",
    "rating": "a finite number",
    "number": "missing or a finite number (of float32)",
    "integer": "missing or an integer of at most 18 digits",
    "hexadecimal": "missing or at most 8 hexadecimal digits",
}


def is_parquet(file: Path) -> bool:
    """Whether a file is Parquet, told by content."""
    try:
        with open(file, "rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # whoever reads the file says why


def header_of(file: Path) -> list[str]:
    """Names of the columns."""
    with _open(file) as source:
        return list(source.schema_arrow.names)


def num_rows(file: Path) -> int:
    """Rows of all row groups."""
    with _open(file) as source:
        return int(source.metadata.num_rows)


def check_types(file: Path, kinds: Mapping[int, Kind], lists: Collection[int]) -> None:
    """Raises: DatasetError: the type of a column does not fit its use: names file and column."""
    with _open(file) as source:
        schema = source.schema_arrow
    for position, kind in kinds.items():
        given = schema.field(position)
        listed = pa.types.is_list(given.type) or pa.types.is_large_list(given.type)
        value = given.type.value_type if listed else given.type
        if listed != (position in lists) or not _fits(value, kind):
            needed = ("a list of " if position in lists else "") + ("text or integers" if kind == "text" else kind)
            raise DatasetError(f"{file}: column {given.name!r} is {given.type}, but its use needs {needed}")


def read_rows(
    file: Path, kinds: Mapping[int, Kind], start: int, stop: int
) -> Iterator[tuple[int, pa.Table, list[tuple[int, str]]]]:
    """Rows [start, stop) of a file, BATCH_ROWS at a time.

    Yields:
        Number of the first row, from 0 on; columns, named by their positions; rows that are not in order (number
        within the table) with what is wrong.
    Raises:
        DatasetError: the file is missing or damaged.
    """
    with _open(file) as source:
        header = source.schema_arrow.names
        sizes = [source.metadata.row_group(group).num_rows for group in range(source.metadata.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        groups = [g for g, (size, end) in enumerate(zip(sizes, ends, strict=True)) if end > start and end - size < stop]
        row = int(ends[groups[0]]) - sizes[groups[0]] if groups else stop
        columns = [header[position] for position in kinds]
        for batch in source.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
            first, last = max(start - row, 0), min(stop - row, len(batch))
            if first < last:
                table = _converted(batch.slice(first, last - first), header, kinds)
                yield row + first, table, _faults(table, header, kinds)
            row += len(batch)


@contextmanager
def _open(file: Path) -> Iterator[parquet.ParquetFile]:
    try:
        with parquet.ParquetFile(file, memory_map=False, buffer_size=1 << 20, pre_buffer=False) as source:
            yield source
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file}: cannot be read as Parquet ({error}); check the path, or fetch it again") from error


def _fits(value: pa.DataType, kind: Kind) -> bool:
    if pa.types.is_dictionary(value):
        value = value.value_type
    texts = pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_binary(value)
    numbers = pa.types.is_floating(value) or pa.types.is_integer(value) or pa.types.is_boolean(value)
    return {"text": texts or pa.types.is_integer(value), "hexadecimal": texts}.get(kind, numbers)


def _converted(batch: pa.RecordBatch, header: Sequence[str], kinds: Mapping[int, Kind]) -> pa.Table:
    return pa.table({str(position): _convert(batch.column(header[position]), kind) for position, kind in kinds.items()})


def _convert(column: pa.Array, kind: Kind) -> pa.Array:
    if kind not in ("text", "hexadecimal"):
        column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        column = column.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)  # as pandas writes a missing one
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column.cast(pa.list_(pa.string())).cast(pa.list_(pa.binary()))
    return column if pa.types.is_binary(column.type) else column.cast(pa.string()).cast(pa.binary())


def _faults(table: pa.Table, header: Sequence[str], kinds: Mapping[int, Kind]) -> list[tuple[int, str]]:
    faults: dict[int, str] = {}
    for position, kind in sorted(kinds.items()):
        column = table.column(str(position))
        for row in np.flatnonzero(~_is_good(column, kind)).tolist():
            value = column[row].as_py()
            shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            faults.setdefault(row, describe_fault(position, header, shown[:40], _WORDS[kind]))
    return sorted(faults.items())


def _is_good(column: pa.ChunkedArray, kind: Kind) -> NDArray[np.bool_]:
    if kind == "text":
        return np.ones(len(column), np.bool_)
    if kind == "hexadecimal":
        digits = pc.match_substring_regex(column, "^[0-9a-fA-F]{0,8}$").fill_null(True)
        return np.asarray(digits.to_numpy())
    values = column.to_numpy()  # null: not a number
    if kind == "binary":
        return (values == 0) | (values == 1)
    if kind == "integer":
        return ((np.abs(values) < 1e18) & (values == np.rint(values))) | np.isnan(values)
    finite = np.abs(values) <= FLOAT32_MAX
    return finite if kind == "rating" else finite | np.isnan(values)
