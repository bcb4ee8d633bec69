"""The ids of dynamic tables: integers as they are, or hashes of texts. A missing value is MISSING."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe_hpc.data.importing.description import Category, CategoryList, TableDescription, position_of
from bagpipe_hpc.data.importing.hashing import are_given, integers_of
from bagpipe_hpc.data.importing.parquet_types import without_missing
from bagpipe_hpc.data.importing.sequences import Lists, column_of
from bagpipe_hpc.dynamic_rules import MISSING, ValueType
from bagpipe_hpc.sharding import Int64Array


class DynamicIds:
    """The encoder of a dynamic table. Its values are its ids.

    Args:
        num_rows: The number of rows of the table.
        value_type: The type of its values.
    """

    def __init__(self, num_rows: int, value_type: ValueType) -> None:
        self.num_embeddings, self._value_type = num_rows, value_type

    def encode(self, values: Int64Array) -> Int64Array:
        """Return the ids of values, both int64, shape (n,)."""
        return np.where(are_given(values, self._value_type), values, MISSING)


class IntegerFaults:
    """Finds rows whose ids are no integers.

    Args:
        description: What the columns hold.
        header: Names of all columns.
    """

    def __init__(self, description: TableDescription, header: Sequence[str]) -> None:
        self._header, self._missing = header, description.missing
        self._columns = [table for table in description.tables if table.type == "integer"]
        self.are_checked = bool(self._columns)

    def faults(self, rows: pa.Table) -> Iterator[tuple[int, str]]:
        """Yield the rows with an id that is neither missing nor an integer, from 0 on, and what is wrong."""
        for table in self._columns:
            texts, row_of = self._texts(rows, table)
            is_given = np.asarray(pc.fill_null(pc.binary_length(texts), 0)) > 0
            bad = np.flatnonzero((integers_of(texts) == MISSING) & is_given)
            position = position_of(table.column, self._header)
            for row, first in zip(*np.unique(row_of[bad], return_index=True), strict=True):
                value = texts[int(bad[first])].as_py()[:40].decode("utf-8", "replace")
                says = "has {!r}, but each value" if isinstance(table, CategoryList) else "is {!r}, but"
                yield (
                    int(row),
                    f"column {position + 1} ({self._header[position]}) {says.format(value)} must be empty or an "
                    "integer of 64 bits",
                )

    def _texts(self, rows: pa.Table, table: Category | CategoryList) -> tuple[pa.Array, Int64Array]:
        """Return the texts of all values, and the row of each of them, int64, shape (num_values,)."""
        column = column_of(rows, table.column, self._header)
        if isinstance(table, Category):
            return column, np.arange(len(column))
        lists = Lists(column, table.separator)
        return without_missing(lists.texts, self._missing), lists.rows


def dynamic_encoders(description: TableDescription) -> dict[str, DynamicIds]:
    """Return the encoders of dynamic tables, by name of the table."""
    return {
        table.feature_name: DynamicIds(table.dynamic.num_rows, table.type)
        for table in description.tables
        if table.dynamic is not None
    }
