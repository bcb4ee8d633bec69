"""Exact lookahead is optimal: it equals brute force, and no policy has more hits at any size."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.exact_lookahead import UNLIMITED, count_hits
from bagpipe_hpc.simulation.hot_set import count_hot_hits
from bagpipe_hpc.simulation.policies import MIN_ROWS, POLICIES, count_policy_hits

from .streams import Samples, samples_of_few_keys, shares, stream_from, zipf


def most_hits(batches: list[set[int]], cache_rows: int) -> int:
    """The most hits of any choice of the rows that are kept after each batch."""
    best = {frozenset[int](): 0}  # by the rows in the cache
    for batch in batches:
        after: dict[frozenset[int], int] = {}
        for held, hits in best.items():
            for kept in combinations(sorted(held | batch), min(cache_rows, len(held | batch))):
                rows = frozenset(kept)
                after[rows] = max(after.get(rows, 0), hits + len(held & batch))
        best = after
    return max(best.values())


@settings(max_examples=60)
@given(samples_of_few_keys, st.integers(1, 3), st.integers(1, 7))
def test_it_equals_brute_force(samples: Samples, batch_size: int, cache_rows: int) -> None:
    accesses = accesses_of(stream_from(samples), batch_size, 1)
    batches = [parts[0] for parts in shares(samples, batch_size, 1)]
    assert count_hits(accesses, UNLIMITED, cache_rows).sum() == most_hits(batches, cache_rows)


@given(samples_of_few_keys, st.integers(1, 3), st.integers(0, 5))
def test_a_window_keeps_rows_that_are_used_within_it(samples: Samples, batch_size: int, window: int) -> None:
    batches = [parts[0] for parts in shares(samples, batch_size, 1)]
    hits = [
        sum(any(key in batches[i - d] for d in range(1, min(window, i) + 1)) for key in b)
        for i, b in enumerate(batches)
    ]
    assert count_hits(accesses_of(stream_from(samples), batch_size, 1), window, 100).tolist() == hits


@pytest.mark.parametrize(("batch_size", "skew"), [(1, 0.8), (50, 0.8), (50, 1.2)])
def test_no_policy_has_more_hits_at_any_size(batch_size: int, skew: float) -> None:
    pytest.importorskip("libcachesim")
    accesses = accesses_of(zipf(20_000, 2_000, skew, seed=3), batch_size, 1)
    sizes = [1, 2, 7, 30, 100, 300, 1000, 2000]
    found = count_policy_hits(accesses, list(POLICIES), sizes)
    found |= {("hot-set", size): hits for size, hits in count_hot_hits(accesses, sizes).items()}
    assert {policy for policy, _ in found} == {*POLICIES, "hot-set"}
    assert len(found) == len(sizes) * (len(POLICIES) + 1) - sum(size < MIN_ROWS["s3fifo"] for size in sizes)
    for size in sizes:
        exact = count_hits(accesses, UNLIMITED, size).sum()
        assert max(hits for (_, each), hits in found.items() if each == size) <= exact
