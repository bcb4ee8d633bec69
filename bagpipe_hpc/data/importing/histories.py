"""Growing histories: each line gets a sequence of what earlier lines with the same key have.

On many ranks, each rank needs what the lines before its own leave behind: the newest order of each key, which says
which lines are bad, and then the newest entries. It finds out in two passes over its own lines, and by asking the other
ranks (earlier_lines.py) after each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.importing.description import Column, History
from bagpipe_hpc.data.importing.earlier_lines import entries_before, order_before
from bagpipe_hpc.data.importing.history_columns import HistoryColumns, as_values, shown
from bagpipe_hpc.data.importing.history_store import BoolArray, HistoryStore
from bagpipe_hpc.data.importing.inputs import Rows
from bagpipe_hpc.data.importing.newest_order import NewestOrder
from bagpipe_hpc.data.importing.ranks import Ranks
from bagpipe_hpc.data.vocabulary import Encoder
from bagpipe_hpc.sharding import Int64Array

MAX_ELEMENTS = 1 << 20  # of all histories of a batch, unless a single line has more


class OrderCheck:
    """Finds lines whose order is below that of an earlier line of the same key.

    Args:
        columns: Reads the columns.
        newest: Of each pair of a key's column and an order's column, the newest orders before the first line.
    """

    def __init__(self, columns: HistoryColumns, newest: Mapping[tuple[Column, Column], NewestOrder]) -> None:
        self._columns, self._newest = columns, newest

    @staticmethod
    def from_first_line(columns: HistoryColumns) -> OrderCheck:
        """Return the check for the first line of all."""
        pairs = [(each.by, each.order) for each in columns.histories if each.order is not None]
        return OrderCheck(columns, {pair: NewestOrder() for pair in pairs})

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to check."""
        return bool(self._newest)

    def copy(self) -> OrderCheck:
        """Return the check for the same line, for another pass."""
        return OrderCheck(self._columns, {pair: newest.copy() for pair, newest in self._newest.items()})

    def faults(self, rows: pa.Table) -> list[tuple[int, str]]:
        """Check the next rows. Return those that are out of order, from 0 on, and why; each row once, in order.

        A row that is out of order does not change what later rows are compared with.
        """
        found: dict[int, str] = {}
        for (by, order), newest in self._newest.items():
            orders = self._columns.numbers(rows, order)
            before = newest.add(self._columns.keys(rows, by), orders)
            for row in np.flatnonzero(orders < before).tolist():
                found.setdefault(row, self._fault(rows, row, by, order, before[row]))
        return sorted(found.items())

    def _fault(self, rows: pa.Table, row: int, by: Column, order: Column, before: float) -> str:
        columns, given = self._columns, self._columns.numbers(rows, order)[row]
        return (
            f"{columns.named(order)} is {shown(given)}, but must be at least {shown(before)}, as in an earlier line "
            f"with {columns.text(rows, by, row)} in {columns.named(by)} (if there are many such lines, sort the file)"
        )

    def note(self, rows: pa.Table) -> None:
        """Add the next rows without checking them."""
        for (by, order), newest in self._newest.items():
            newest.add(self._columns.keys(rows, by), self._columns.numbers(rows, order))

    def before(self, ranks: Ranks) -> OrderCheck:
        """Return the check for the first line of this rank; this one has noted the lines of this rank.

        Communication: collective.
        """
        return OrderCheck(self._columns, {pair: order_before(own, ranks) for pair, own in self._newest.items()})


class Histories:
    """The histories of a table.

    Args:
        columns: Reads the columns.
        stores: Of each history, the newest entries before the first line.
    """

    def __init__(self, columns: HistoryColumns, stores: Sequence[HistoryStore]) -> None:
        self._columns, self._stores = columns, stores

    @staticmethod
    def from_first_line(columns: HistoryColumns) -> Histories:
        """Return the histories before the first line of all: empty ones."""
        return Histories(
            columns,
            [HistoryStore(len(each.features) + len(each.elements), each.max_length) for each in columns.histories],
        )

    @property
    def features(self) -> tuple[str, ...]:
        """The features whose values the histories keep, each once."""
        return tuple(dict.fromkeys(name for history in self._columns.histories for name in history.features))

    def note(self, rows: pa.Table, values: Mapping[str, Int64Array]) -> None:
        """Add rows.

        Args:
            rows: Good rows, columns named by their positions.
            values: Of each of `features`, the values of the rows as integers, int64, shape (num_rows,); -1: missing.
        """
        for history, store in self._each():
            keys, enters = self._who_enters(rows, history, values)
            store.add(keys, enters, self._entries(rows, history, values))

    def before(self, ranks: Ranks, encoders: Mapping[str, Encoder]) -> Histories:
        """Return the histories before the first line of this rank; this one has noted the lines of this rank.

        Args:
            encoders: Of each of `features`, the mapping of values to row ids.
        Communication: collective.
        """
        stores = [
            entries_before(store, ranks, [encoders[feature].encode for feature in history.features])
            for history, store in self._each()
        ]
        return Histories(self._columns, stores)

    def extend(
        self,
        rows: Rows,
        batch: Batch,
        values: Mapping[str, Int64Array],
        ids: Mapping[str, Int64Array],
    ) -> Iterator[tuple[Int64Array, Batch]]:
        """Add rows; yield their samples with the histories before each of them, in pieces of bounded size.

        Args:
            rows: Good rows.
            batch: The samples of the rows without histories.
            values: As for `note`.
            ids: Of each of `features`, the row ids of the rows, int64, shape (num_rows,).
        """
        lines, prepared = rows.lines, [self._prepare(rows.table, *each, values, ids) for each in self._each()]
        ends = np.cumsum(sum(lengths for _, _, _, lengths in prepared))
        start = 0
        while start < len(lines):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + MAX_ELEMENTS, side="right")))
            piece = batch.slice(start, stop)
            bags = dict(piece.bags)
            for (history, store), (rings, enters, entries, lengths) in zip(self._each(), prepared, strict=True):
                part = slice(start, stop)
                before = store.extend(rings[part], enters[part], entries[:, part], lengths[part])
                bags.update(_bags_of(history, lengths[part], before))
            yield lines[start:stop], replace(piece, bags=bags)
            start = stop

    def _each(self) -> Iterator[tuple[History, HistoryStore]]:
        return zip(self._columns.histories, self._stores, strict=True)

    def _prepare(
        self,
        rows: pa.Table,
        history: History,
        store: HistoryStore,
        values: Mapping[str, Int64Array],
        ids: Mapping[str, Int64Array],
    ) -> tuple[Int64Array, BoolArray, Int64Array, Int64Array]:
        """Return the ring of each row, whether the row enters, its entry, and the entries before it."""
        keys, enters = self._who_enters(rows, history, values)
        rings = store.rings_of(keys)
        return rings, enters, self._entries(rows, history, ids), store.lengths(rings, enters)

    def _who_enters(
        self, rows: pa.Table, history: History, values: Mapping[str, Int64Array]
    ) -> tuple[Int64Array, BoolArray]:
        """Return the key of each row, and whether the row becomes an entry."""
        keys = self._columns.keys(rows, history.by)
        return keys, (keys >= 0) & self._columns.are_there(history, values[history.of]) & self._columns.enters(
            rows, history
        )

    def _entries(self, rows: pa.Table, history: History, ids: Mapping[str, Int64Array]) -> Int64Array:
        """Return the entry of each row, int64, shape (width, num_rows)."""
        elements = [self._columns.values(rows, element) for element in history.elements]
        return np.stack([*(ids[feature] for feature in history.features), *elements])


def _bags_of(history: History, lengths: Int64Array, entries: Int64Array) -> Iterator[tuple[str, Bags]]:
    """Yield the sequences of a history by name: the history itself, then those along with it.

    Args:
        lengths: Of each sample, int64, shape (num_samples,).
        entries: int64, shape (width, sum of lengths).
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = entries[len(history.features) :]
    elements = {
        element.feature_name: as_values(bits, element) for element, bits in zip(history.elements, values, strict=True)
    }
    for number, name in enumerate(history.sequence_names):
        yield name, Bags(offsets, entries[number], elements={} if number else elements)
