"""Sequences of tables: lists in order, with numbers for their elements and with other lists along with them.

A row is bad if a column that belongs to a sequence has another number of values than the sequence, or if a value is no
number. Elements whose id is empty or missing are left out, with all that belongs to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags, Float32Array
from bagpipe_hpc.data.importing.description import CategoryList, Element, TableDescription, position_of
from bagpipe_hpc.data.importing.hashing import are_given, values_of
from bagpipe_hpc.data.importing.parquet_types import without_missing
from bagpipe_hpc.sharding import Int64Array

FLOAT32_MAX = float(np.finfo(np.float32).max)
_PATTERNS = {
    "real": r"^-?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$",
    "integer": r"^-?[0-9]{1,18}$",
}
_WORDS = {"real": "a number of float32", "integer": "an integer of at most 18 digits"}


def column_of(rows: pa.Table, column: str | int, header: Sequence[str]) -> pa.Array:
    """Return the values of a column that is given by name or number, as one array.

    Args:
        rows: Columns, named by their positions.
        column: The column.
        header: Names of all columns.
    """
    chunks = rows.column(str(position_of(column, header)))
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


class Lists:
    """The values of a column with any number of values per row.

    `lengths` are the numbers of values of each row, int64, shape (num_rows,); `texts` are all values, binary.

    Args:
        column: Text with a separator, or lists of texts.
        separator: The separator.
    """

    def __init__(self, column: pa.Array, separator: str) -> None:
        if not pa.types.is_list(column.type):
            column = pc.split_pattern(column.fill_null(b""), separator)
        self.lengths: Int64Array = np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(), np.int64)
        self.texts: pa.Array = pc.list_flatten(column)

    @property
    def rows(self) -> Int64Array:
        """The row of each value, int64, shape (num_values,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


class Sequences:
    """Reads lists, and finds rows whose sequences do not fit together.

    Args:
        description: What the columns hold.
        header: Names of all columns.
    """

    def __init__(self, description: TableDescription, header: Sequence[str]) -> None:
        self._missing, self._header = description.missing, header
        self._lists = {each.feature_name: each for each in description.lists}
        self.are_checked = any(each.elements or each.along for each in description.lists)

    def read(self, rows: pa.Table, category_list: CategoryList) -> Bags:
        """Return the values of a list as integers, without missing ones, and those of its elements.

        Args:
            rows: Columns, named by their positions.
            category_list: The list.
        """
        values = self._values(rows, category_list)
        ids = self._ids(values, category_list)
        kept = are_given(ids, category_list.type) if category_list.along is None else self._kept(rows, category_list)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.bincount(values.rows[kept], minlength=len(rows)), out=offsets[1:])
        elements = {
            each.feature_name: _numbers(self._values(rows, category_list, each.column), each)[kept]
            for each in category_list.elements
        }
        return Bags(offsets, ids[kept], elements=elements)

    def faults(self, rows: pa.Table) -> list[tuple[int, str]]:
        """Return the rows whose sequences do not fit together, from 0 on, and why; each row once, in order."""
        found: dict[int, str] = {}
        if not self.are_checked:
            return []
        for each in self._lists.values():
            for row, fault in self._faults_of(rows, each):
                found.setdefault(row, fault)
        return sorted(found.items())

    def _faults_of(self, rows: pa.Table, category_list: CategoryList) -> Iterator[tuple[int, str]]:
        leading = self._lists[category_list.along or category_list.feature_name]
        needed = self._values(rows, leading)
        if category_list.along is not None:
            yield from self._wrong_lengths(self._values(rows, category_list), category_list.column, needed, leading)
        kept = are_given(self._ids(needed, leading), leading.type)
        for element in category_list.elements:
            values = self._values(rows, category_list, element.column)
            yield from self._wrong_lengths(values, element.column, needed, leading)
            fits = values.lengths == needed.lengths  # the others are bad already
            matters = fits[values.rows]
            matters[matters] = kept[fits[needed.rows]]
            for position in np.flatnonzero(matters & ~_are_numbers(values.texts, element)).tolist():
                text = values.texts[position].as_py() or b""
                yield (
                    int(values.rows[position]),
                    f"{self._named(element.column)} has {text[:40].decode('utf-8', 'replace')!r}, but each value must "
                    f"be {_WORDS[element.type]}",
                )

    def _wrong_lengths(
        self, values: Lists, column: str | int, needed: Lists, leading: CategoryList
    ) -> Iterator[tuple[int, str]]:
        for row in np.flatnonzero(values.lengths != needed.lengths).tolist():
            yield (
                row,
                f"{self._named(column)} has {values.lengths[row]} values, but {needed.lengths[row]} are needed, one "
                f"for each of {self._named(leading.column)}",
            )

    def _kept(self, rows: pa.Table, category_list: CategoryList) -> NDArray[np.bool_]:
        """Return which elements are not missing: those of the sequence that the list goes along with."""
        leading = self._lists[category_list.along or category_list.feature_name]
        return are_given(self._ids(self._values(rows, leading), leading), leading.type)

    def _values(self, rows: pa.Table, category_list: CategoryList, column: str | int | None = None) -> Lists:
        """Return the values of a list, or those of another column that belongs to its elements."""
        column = category_list.column if column is None else column
        return Lists(column_of(rows, column, self._header), category_list.separator)

    def _ids(self, values: Lists, category_list: CategoryList) -> Int64Array:
        return values_of(without_missing(values.texts, self._missing), category_list.type)

    def _named(self, column: str | int) -> str:
        position = position_of(column, self._header)
        return f"column {position + 1} ({self._header[position]})"


def _are_numbers(texts: pa.Array, element: Element) -> NDArray[np.bool_]:
    texts = texts.cast(pa.string(), safe=False)
    match = np.asarray(pc.match_substring_regex(texts, _PATTERNS[element.type]).fill_null(False))
    if element.type == "integer":
        return match
    values = pc.if_else(pa.array(match), texts, "0").cast(pa.float64()).to_numpy(zero_copy_only=False)
    small: NDArray[np.bool_] = match & (np.abs(values) <= FLOAT32_MAX)
    return small


def _numbers(values: Lists, element: Element) -> Float32Array | Int64Array:
    """Return the values of all elements; 0 where there is no number, which only belongs to missing elements."""
    texts = pc.if_else(pa.array(_are_numbers(values.texts, element)), values.texts.cast(pa.string(), safe=False), "0")
    if element.type == "integer":
        return np.asarray(texts.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    numbers: Float32Array = texts.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32)
    return numbers
