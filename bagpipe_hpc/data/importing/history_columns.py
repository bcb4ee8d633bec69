"""What single lines say of histories: whose they are, their order, whether they enter, and the numbers of an element.

A line is bad if its order is missing, or if an integer of an element is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bagpipe_hpc.data.importing.description import Column, Element, History, TableDescription, position_of
from bagpipe_hpc.data.importing.hashing import are_given, hashed_texts, hexadecimal
from bagpipe_hpc.data.importing.sequences import column_of
from bagpipe_hpc.data.importing.times import Times
from bagpipe_hpc.sharding import Int64Array

Float64Array = NDArray[np.float64]
MAX_INTEGER = 2**53
"""Integers of elements are below this in size, so that float64, which columns of numbers are read as, is exact."""


class HistoryColumns:
    """Reads the columns of histories.

    Args:
        description: What the columns hold.
        header: Names of all columns.
    """

    def __init__(self, description: TableDescription, header: Sequence[str]) -> None:
        self.histories = description.history
        self._header = header
        self._kinds = description.kinds(header)
        self._types = {each.feature_name: each.type for each in description.categorical}
        time = description.time_of_histories
        self._times = None if time is None else Times(time, header)

    def keys(self, rows: pa.Table, by: Column) -> Int64Array:
        """Return whose each row is, as integers, int64, shape (num_rows,); -1 if missing."""
        column = column_of(rows, by.column, self._header)
        is_hexadecimal = self._kinds[position_of(by.column, self._header)] == "hexadecimal"
        return hexadecimal(column) if is_hexadecimal else hashed_texts(column)

    def numbers(self, rows: pa.Table, column: Column) -> Float64Array:
        """Return the numbers of a column, float64, shape (num_rows,); nan if missing."""
        if self._times is not None and self._is_time(column):
            return self._times.read(rows).astype(np.float64)
        numbers: Float64Array = column_of(rows, column.column, self._header).to_numpy(zero_copy_only=False)
        return numbers.astype(np.float64, copy=False)

    def _is_time(self, column: Column) -> bool:
        """Whether a column of numbers is that of the times, which are text here."""
        return self._kinds[position_of(column.column, self._header)] in ("text", "time")

    def are_there(self, history: History, values: Int64Array) -> NDArray[np.bool_]:
        """Return which values of the feature that a history is of are not missing, shape (num_rows,)."""
        return are_given(values, self._types[history.of])

    def enters(self, rows: pa.Table, history: History) -> NDArray[np.bool_]:
        """Return whether `where` lets each row into a history, shape (num_rows,)."""
        if history.where is None:
            return np.ones(len(rows), np.bool_)
        enters: NDArray[np.bool_] = self.numbers(rows, history.where) == 1
        return enters

    def values(self, rows: pa.Table, element: Element) -> Int64Array:
        """Return the values of an element, shape (num_rows,), as bits for `as_values`; missing ones are 0."""
        numbers = np.nan_to_num(self.numbers(rows, element))
        if element.type == "integer":
            return numbers.astype(np.int64)
        return numbers.astype(np.float32).view(np.int32).astype(np.int64)

    def faults(self, rows: pa.Table) -> list[tuple[int, str]]:
        """Return the rows that no history can use, from 0 on, and why; each row once, in order."""
        found: dict[int, str] = {}
        for history in self.histories:
            for row, fault in (*self._time_faults(rows, history), *self._faults_of(rows, history)):
                found.setdefault(row, fault)
        return sorted(found.items())

    def _time_faults(self, rows: pa.Table, history: History) -> Iterator[tuple[int, str]]:
        """Yield the rows without a time, if the history uses times."""
        numbers = [*history.elements, *([] if history.order is None else [history.order])]
        if self._times is not None and any(map(self._is_time, numbers)):
            yield from self._times.faults(rows)

    def _faults_of(self, rows: pa.Table, history: History) -> Iterator[tuple[int, str]]:
        if history.order is not None:
            orders = self.numbers(rows, history.order)
            for row in np.flatnonzero(np.isnan(orders)).tolist():
                yield row, f"{self.named(history.order)} is missing, but must be a number, because it orders a history"
            for row in np.flatnonzero(np.abs(orders) >= MAX_INTEGER).tolist():
                yield (
                    row,
                    f"{self.named(history.order)} is about {orders[row]:.3g}, but what orders a history must be below "
                    "2^53 in size, so that it is compared exactly; write it in larger units, such as seconds",
                )
        for element in history.elements:
            if element.type == "integer":
                numbers = np.nan_to_num(self.numbers(rows, element))
                for row in np.flatnonzero((numbers != np.rint(numbers)) | (np.abs(numbers) >= MAX_INTEGER)).tolist():
                    yield (
                        row,
                        f"{self.named(element)} is {shown(numbers[row])}, but must be missing or an integer below 2^53 "
                        "in size",
                    )

    def named(self, column: Column) -> str:
        """Return how messages name a column."""
        position = position_of(column.column, self._header)
        return f"column {position + 1} ({self._header[position]})"

    def text(self, rows: pa.Table, column: Column, row: int) -> str:
        """Return what a text column has in a row, as messages show it."""
        value = column_of(rows, column.column, self._header)[row].as_py() or b""
        return repr(value[:40].decode("utf-8", "replace"))


def as_values(bits: Int64Array, element: Element) -> Int64Array | NDArray[np.float32]:
    """Return the values of elements, int64 or float32, from the bits that `HistoryColumns.values` returns."""
    return bits if element.type == "integer" else bits.astype(np.int32).view(np.float32)


def shown(number: float) -> str:
    """Return a number as messages show it, with all of its digits."""
    return str(int(number)) if number == int(number) else str(number)
