"""The ids of dynamic tables: integers as they are, or hashes of texts. A missing value is MISSING."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe_hpc.data.importing.description import Category, TableDescription, position_of
from bagpipe_hpc.data.importing.grammar import describe_fault
from bagpipe_hpc.data.importing.sequences import column_of
from bagpipe_hpc.dynamic_rules import MISSING
from bagpipe_hpc.sharding import Int64Array

_LARGEST = str(2**63 - 1)


class DynamicIds:
    """The encoder of a dynamic table. Its values are its ids.

    Args:
        num_rows: The number of rows of the table.
        are_integers: Whether values are integers of any sign. Otherwise negative ones are missing.
    """

    def __init__(self, num_rows: int, *, are_integers: bool) -> None:
        self.num_embeddings, self._are_integers = num_rows, are_integers

    def encode(self, values: Int64Array) -> Int64Array:
        """Return the ids of values, both int64, shape (n,)."""
        return values if self._are_integers else np.where(values < 0, MISSING, values)


def integers_of(texts: pa.Array) -> Int64Array:
    """Return the integers that texts are, int64, shape (n,); MISSING where a text is null or no integer."""
    texts = texts.cast(pa.string(), safe=False)
    digits = pc.replace_substring_regex(texts, "^(-?)0+([0-9])", r"\1\2")
    is_small = pc.match_substring_regex(digits, "^-?[0-9]{1,18}$")
    magnitude = pc.utf8_ltrim(digits, "-")
    fits = pc.and_(
        pc.match_substring_regex(digits, "^-?[0-9]{19}$"), pc.less_equal(magnitude, pa.scalar(_LARGEST, pa.string()))
    )
    sound = pc.or_(is_small, fits)
    return np.asarray(pc.if_else(sound, digits, None).cast(pa.int64()).fill_null(MISSING).to_numpy(), np.int64)


class IntegerFaults:
    """Finds rows whose ids are no integers.

    Args:
        description: What the columns hold.
        header: Names of all columns.
    """

    def __init__(self, description: TableDescription, header: Sequence[str]) -> None:
        self._header = header
        self._columns = [
            table for table in description.tables if isinstance(table, Category) and table.type == "integer"
        ]
        self.are_checked = bool(self._columns)

    def faults(self, rows: pa.Table) -> Iterator[tuple[int, str]]:
        """Yield the rows with an id that is neither missing nor an integer, from 0 on, and what is wrong."""
        for table in self._columns:
            column = column_of(rows, table.column, self._header)
            is_given = np.asarray(pc.fill_null(pc.binary_length(column), 0)) > 0
            bad = (integers_of(column) == MISSING) & is_given
            for row in np.flatnonzero(bad).tolist():
                value = column[row].as_py()[:40].decode("utf-8", "replace")
                position = position_of(table.column, self._header)
                yield row, describe_fault(position, self._header, value, "empty or an integer of 64 bits")


def dynamic_encoders(description: TableDescription) -> dict[str, DynamicIds]:
    """Return the encoders of dynamic tables, by name of the table."""
    return {
        table.feature_name: DynamicIds(
            table.dynamic.num_rows, are_integers=isinstance(table, Category) and table.type == "integer"
        )
        for table in description.tables
        if table.dynamic is not None
    }
