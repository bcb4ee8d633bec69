"""Rows of Parquet files, converted to the types that text files give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from bagpipe_hpc.data.checks import WEIGHTS
from bagpipe_hpc.data.importing.description import Kind
from bagpipe_hpc.data.importing.grammar import describe_fault
from bagpipe_hpc.data.importing.parquet_types import as_lists, as_numbers, as_text, as_times, fault_of, num_leaves
from bagpipe_hpc.data.importing.text import refuse_pipe
from bagpipe_hpc.errors import DatasetError

BATCH_ROWS = 16_384
FLOAT32_MAX = float(np.finfo(np.float32).max)

_MAGIC = b"PAR1"
_WORDS: Mapping[Kind, str] = {
    "binary": "0 or 1",
    "optional_binary": "missing, 0 or 1",
    "rating": "a finite number",
    "weight": "0 or a number between 1e-12 and 1e12",
    "number": "missing or a finite number (of float32)",
    "moment": "missing or a finite number (of float32)",
    "integer": "missing or an integer of at most 18 digits",
    "hexadecimal": "missing or at most 8 hexadecimal digits",
}


@dataclass(frozen=True)
class Use:
    """How the columns of a table are used.

    Args:
        kinds: What the used columns hold, by position.
        lists: The used columns with any number of values per row.
        single: The used columns with one value per row. A text column can be in both.
        missing: Texts that stand for a missing value.
    """

    kinds: Mapping[int, Kind]
    lists: Collection[int]
    single: Collection[int]
    missing: Collection[str]


def is_parquet(file: Path) -> bool:
    """Return whether a file is Parquet, judging by its content."""
    try:
        refuse_pipe(file)
        with open(file, "rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # the reader of the file reports the reason


def header_of(file: Path) -> list[str]:
    """Return the names of the columns."""
    with _open(file) as source:
        return list(source.schema_arrow.names)


def num_rows(file: Path) -> int:
    """Return the number of rows of all row groups."""
    with _open(file) as source:
        return int(source.metadata.num_rows)


def check_types(file: Path, use: Use) -> None:
    """Raise DatasetError, which names file and column, if the type of a column does not fit its use."""
    with _open(file) as source:
        schema = source.schema_arrow
    for position, kind in use.kinds.items():
        given = schema.field(position)
        for is_list in {position in use.lists, position not in use.single}:
            if fault := fault_of(given.type, kind, is_list=is_list):
                raise DatasetError(f"{file}: column {position + 1} ({given.name}) {fault}")


def read_rows(file: Path, use: Use, start: int, stop: int) -> Iterator[tuple[int, pa.Table, list[tuple[int, str]]]]:
    """Yield rows [start, stop) of a file, BATCH_ROWS at a time.

    Yields:
        Number of the first row, from 0 on; columns, named by their positions; invalid rows (number within the table)
        and their faults.
    Raises:
        DatasetError: The file is missing or damaged.
    """
    with _open(file) as source:
        header = source.schema_arrow.names
        sizes = [source.metadata.row_group(group).num_rows for group in range(source.metadata.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        groups = [g for g, (size, end) in enumerate(zip(sizes, ends, strict=True)) if end > start and end - size < stop]
        row = int(ends[groups[0]]) - sizes[groups[0]] if groups else stop
        for batch in _batches(source, groups, sorted(use.kinds)):
            first, last = max(start - row, 0), min(stop - row, len(batch))
            if first < last:
                table = _converted(batch.slice(first, last - first), use)
                yield row + first, table, _faults(table, header, use.kinds)
            row += len(batch)


def _batches(source: parquet.ParquetFile, groups: list[int], positions: list[int]) -> Iterator[pa.RecordBatch]:
    """Yield only the columns at some positions, in this order. Names are not enough, because they may repeat."""
    ends = list(accumulate(num_leaves(field.type) for field in source.schema_arrow))
    leaves = [leaf for position in positions for leaf in range(ends[position - 1] if position else 0, ends[position])]
    yield from source.reader.iter_batches(BATCH_ROWS, row_groups=groups, column_indices=leaves, use_threads=True)


@contextmanager
def _open(file: Path) -> Iterator[parquet.ParquetFile]:
    try:
        with parquet.ParquetFile(
            file, memory_map=False, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        ) as source:
            yield source
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise DatasetError(f"{file}: cannot be read as Parquet ({why}); check the path, or fetch it again") from error


def _converted(batch: pa.RecordBatch, use: Use) -> pa.Table:
    columns = zip(sorted(use.kinds), batch.columns, strict=True)
    return pa.table({str(position): _convert(column, position, use) for position, column in columns})


def _convert(column: pa.Array, position: int, use: Use) -> pa.Array:
    if position in use.lists:
        return as_lists(column, use.missing)
    if use.kinds[position] == "time":
        return as_times(column, use.missing)
    if use.kinds[position] in ("text", "hexadecimal"):
        return as_text(column, use.missing)
    return as_numbers(column)


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
    if kind in ("text", "element", "time"):
        return np.ones(len(column), np.bool_)
    if kind == "hexadecimal":
        digits = pc.match_substring_regex(column, "^[0-9a-fA-F]{0,8}$").fill_null(True)
        return np.asarray(digits.to_numpy())
    return _is_good_number(column.to_numpy(), kind)  # null: not a number


def _is_good_number(values: NDArray[np.float64], kind: Kind) -> NDArray[np.bool_]:
    is_good: NDArray[np.bool_]
    if kind == "binary":
        is_good = (values == 0) | (values == 1)
    elif kind == "optional_binary":
        is_good = (values == 0) | (values == 1) | np.isnan(values)
    elif kind == "weight":
        is_good = (values == 0) | ((values >= WEIGHTS[0]) & (values <= WEIGHTS[1]))
    elif kind == "integer":
        is_good = ((np.abs(values) < 1e18) & (values == np.rint(values))) | np.isnan(values)
    else:
        is_good = (np.abs(values) <= FLOAT32_MAX) | ((kind != "rating") & np.isnan(values))
    return is_good
