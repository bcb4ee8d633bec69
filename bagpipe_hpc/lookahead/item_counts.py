"""How often each item has occurred in the training samples so far.

Models that learn to find the item of a sample among the items of a batch need to know how likely an item is to be in a
batch (trainer/models/two_tower.py). The oracle reads every id, so its counts are exact where others estimate them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.hash_table import place_of
from bagpipe_hpc.lookahead.samples import positive_weights
from bagpipe_hpc.protocol.plan import Int64Array, IterationPlan

MIN_PLACES = 1 << 10


@dataclass(frozen=True)
class ItemCounts:
    """The items that have occurred, in any order, and how often each of them has.

    Args:
        feature: The name of the feature whose ids are the items.
        items: Row ids within their table, int64, shape (n,), without repetitions.
        counts: int64, shape (n,), at least 1 each.
    """

    feature: str
    items: Int64Array
    counts: Int64Array

    def in_order(self) -> ItemCounts:
        """Return the same counts, items ascending."""
        order = np.argsort(self.items)
        return ItemCounts(self.feature, self.items[order], self.counts[order])


class ItemCounter:
    """Counts items in a hash table, 16 bytes per place. Items that have not occurred take no memory.

    Args:
        before: What has been counted before; None: nothing.
    """

    def __init__(self, before: ItemCounts | None = None) -> None:
        self._items, self._counts = _empty_table(MIN_PLACES)
        self._num_used = 0
        if before is not None:
            self._make_room(len(before.items))
            _insert(before.items, before.counts, self._items, self._counts)
            self._num_used = len(before.items)

    def count(self, items: NDArray[np.int64]) -> Int64Array:
        """Count the items of a batch, then return how often each of them has occurred so far.

        Args:
            items: Row ids, int64, shape (num_samples,).
        Returns:
            int64, shape (num_samples,).
        """
        self._make_room(len(items))
        so_far = np.empty(len(items), dtype=np.int64)
        self._num_used += _count(items, self._items, self._counts, so_far)
        return so_far

    def counts(self, feature: str) -> ItemCounts:
        """Return a copy of all counts so far."""
        used = self._counts != 0
        return ItemCounts(feature, self._items[used], self._counts[used])

    def _make_room(self, num_new: int) -> None:
        """Keep at least half of the places free, also if all of the new items are other ones."""
        if 2 * (self._num_used + num_new) <= len(self._items):
            return
        used = self._counts != 0
        items, counts = self._items[used], self._counts[used]
        self._items, self._counts = _empty_table(1 << (4 * (self._num_used + num_new)).bit_length())
        _insert(items, counts, self._items, self._counts)


class CountedItems:
    """Tells trainers how often the items of their samples have occurred. Two threads use it.

    Args:
        feature: The name of the feature whose ids are the items.
        column: Its column in the ids of a batch.
        before: The counts before the first batch; those of another feature do not count. None: nothing is counted yet.
    """

    def __init__(self, feature: str, column: int, before: ItemCounts | None = None) -> None:
        self._feature, self._column = feature, column
        self._counter = ItemCounter(before if before is not None and before.feature == feature else None)
        self._due: deque[Int64Array] = deque()  # items of batches that have no plan yet; append and popleft are atomic

    def enter(self, batch: Batch) -> None:
        """Note the items of a batch."""
        self._due.append(batch.ids[:, self._column].astype(np.int64))

    def counted(self, plan: IterationPlan) -> IterationPlan:
        """Return the plan of the oldest batch that has none, with the counts of its items if it trains."""
        items = self._due.popleft()
        if plan.read_only:
            return plan
        samples = replace(
            plan.samples, item_counts=self._counter.count(items), positive_weights=positive_weights(plan.samples)
        )
        return replace(plan, samples=samples)

    def counts(self) -> ItemCounts:
        """Return the counts of all plans so far."""
        return self._counter.counts(self._feature)


def warm_up_counting() -> None:
    """Compile the functions that counting uses, or load what an earlier run compiled."""
    one = np.ones(1, dtype=np.int64)
    ItemCounter(ItemCounts("", one, one)).count(one)


def _empty_table(num_places: int) -> tuple[Int64Array, Int64Array]:
    """Return the items and the counts of a table. A place without an item has a count of 0."""
    return np.empty(num_places, dtype=np.int64), np.zeros(num_places, dtype=np.int64)


@compiled
def _count(items: Int64Array, table_items: Int64Array, table_counts: Int64Array, so_far: Int64Array) -> int:
    """Count items, write how often each of them has occurred to `so_far`, and return how many are new."""
    num_new = 0
    for sample in range(len(items)):
        place = place_of(items[sample], table_items, table_counts)
        if table_counts[place] == 0:
            num_new += 1
        table_items[place] = items[sample]
        table_counts[place] += 1
    for sample in range(len(items)):
        so_far[sample] = table_counts[place_of(items[sample], table_items, table_counts)]
    return num_new


@compiled
def _insert(items: Int64Array, counts: Int64Array, table_items: Int64Array, table_counts: Int64Array) -> None:
    """Give items that are not in a table their counts."""
    for number in range(len(items)):
        place = place_of(items[number], table_items, table_counts)
        table_items[place] = items[number]
        table_counts[place] = counts[number]
