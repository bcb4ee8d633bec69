"""Counting against a dictionary."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.lookahead.item_counts import MIN_PLACES, CountedItems, ItemCounter, ItemCounts
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import Int64Array


def batches_of_items(num_batches: int, largest: int) -> list[Int64Array]:
    random = np.random.default_rng(3)
    return [(random.random(random.integers(0, 300)) ** 3 * largest).astype(np.int64) for _ in range(num_batches)]


@pytest.mark.parametrize("largest", [1, 50, 2**62])
@pytest.mark.parametrize("restart_at", [0, 5, 19])
def test_counts_are_those_up_to_and_including_a_batch(largest: int, restart_at: int) -> None:
    counter, expected = ItemCounter(), Counter[int]()
    for number, items in enumerate(batches_of_items(20, largest)):
        if number == restart_at:
            counter = ItemCounter(counter.counts("item").in_order())
        expected.update(items.tolist())
        assert counter.count(items).tolist() == [expected[item] for item in items.tolist()]
    found = counter.counts("item").in_order()
    assert dict(zip(found.items.tolist(), found.counts.tolist(), strict=True)) == expected
    assert found.items.tolist() == sorted(expected)


def test_half_of_the_places_stay_free() -> None:
    counter = ItemCounter()
    assert len(counter._items) == MIN_PLACES
    for first in range(0, 20_000, 700):
        counter.count(np.arange(first, first + 700) * 2**40)
        assert 2 * counter._num_used <= len(counter._items) <= 16 * counter._num_used + MIN_PLACES
    repeated = len(counter._items)
    for _ in range(50):
        counter.count(np.arange(700) * 2**40)
    assert len(counter._items) <= 2 * repeated, "items that are known need no room"


def test_counts_of_another_feature_begin_anew() -> None:
    before = ItemCounts("item", np.array([0, 1]), np.array([5, 7]))
    assert CountedItems("item", 0, before).counts().counts.tolist() == [5, 7]
    assert CountedItems("film", 0, before).counts().counts.tolist() == []


def test_plans_get_the_counts_of_their_samples_and_the_weight_of_the_positive_ones() -> None:
    def batch(ids: list[int], labels: list[int], read_only: bool = False) -> Batch:
        columns = np.stack([np.zeros(len(ids), np.int32), np.array(ids, np.int32)], axis=1)
        none = np.zeros((len(ids), 0), np.float32)
        return Batch(np.array(labels, np.float32), none, columns, read_only=read_only)

    stream = [batch([4, 4, 5], [1, 0, 1]), batch([4, 6], [1, 1], read_only=True), batch([6, 4], [0, 0])]
    planner = Planner(
        num_embeddings=(1, 9), num_trainers=1, num_servers=1, window=2, prefetch_depth=1, cache_rows=20
    )  # fmt: skip
    items = CountedItems("item", 1)
    for each in stream:
        items.enter(each)
    plans = [items.counted(plan).samples for plan in planner.plans(stream)]
    assert [samples.item_counts.tolist() for samples in plans] == [[2, 2, 1], [], [1, 3]]
    assert [samples.positive_weights.tolist() for samples in plans] == [[2], [], [1]]
