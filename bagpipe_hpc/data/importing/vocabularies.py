"""One vocabulary per table, made of the values that all ranks have counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.data.importing.description import Category, CategoryList
from bagpipe_hpc.data.importing.features import Features
from bagpipe_hpc.data.importing.inputs import Rows
from bagpipe_hpc.data.importing.ranks import Ranks
from bagpipe_hpc.data.vocabulary import ValueCounter


def count_values(
    blocks: Iterable[Rows], features: Features, tables: Sequence[Category | CategoryList], num_counted: int
) -> dict[str, ValueCounter]:
    """Count the values in lines of this rank. The validation split must not influence the tables.

    Args:
        blocks: Good lines, in order.
        features: Reads the columns.
        tables: Features whose values are counted.
        num_counted: Lines from here on are read, but not counted.
    Returns:
        Counters by name of the table whose rows the values use: columns that share a table are counted together.
    Raises:
        DatasetError: A file is damaged, or this rank has found too many bad lines.
    """
    counters = {table.table_name: ValueCounter(_dtype(table)) for table in tables}
    for block in blocks:
        rows = block.slice(0, int(np.searchsorted(block.lines, num_counted)))
        for table in tables:
            counter = counters[table.table_name]
            if isinstance(table, CategoryList):
                counter.add(features.value_lists(rows.table, table).ids)
            else:
                counter.add(features.values(rows.table, table))
    return counters


def merge_counts(counter: ValueCounter, min_count: int, ranks: Ranks) -> ValueCounter:
    """Return the counts over all ranks of the values that occur at least min_count times, the same on every rank.

    Every rank adds up the counts of its part of the values, so a rare value is in the memory of only one rank.

    Communication: collective.
    """
    if ranks.size == 1:
        return counter
    values, counts = counter.items()
    part = values.astype(np.uint64) % np.uint64(ranks.size)
    mine = _merged(counter, *(_exchange(array, part, ranks) for array in (values, counts)))
    values, counts = mine.items()
    frequent = counts >= min_count
    return _merged(counter, ranks.allgather(values[frequent]), ranks.allgather(counts[frequent]))


def _merged(like: ValueCounter, values: Sequence[NDArray[Any]], counts: Sequence[NDArray[np.uint32]]) -> ValueCounter:
    merged = ValueCounter(like.dtype)
    for some_values, some_counts in zip(values, counts, strict=True):
        merged.add_counts(some_values, some_counts)
    return merged


def _exchange(array: NDArray[Any], part: NDArray[np.uint64], ranks: Ranks) -> list[NDArray[Any]]:
    return ranks.alltoall([array[part == rank] for rank in range(ranks.size)])


def _dtype(table: Category | CategoryList) -> type[np.integer[Any]]:
    return np.uint32 if table.type == "hexadecimal" else np.int64
