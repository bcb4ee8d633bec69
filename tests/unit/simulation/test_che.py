"""Che's approximation is within 2 % of an LRU cache under independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.che import characteristic_time, lru_hit_ratio
from bagpipe_hpc.simulation.policies import count_policy_hits

from .streams import zipf

NUM_REFERENCES, NUM_KEYS = 200_000, 2_000


@pytest.mark.parametrize("skew", [0.6, 1.0, 1.3])
def test_it_is_within_2_percent_of_a_trace(skew: float) -> None:
    pytest.importorskip("libcachesim")
    accesses = accesses_of(zipf(NUM_REFERENCES, NUM_KEYS, skew, seed=1), 1, 1)
    counts = np.bincount(accesses.entries)
    sizes = [50, 200, 1000]
    hits = count_policy_hits(accesses, ["lru"], sizes)
    for size in sizes:
        assert hits["lru", size] / NUM_REFERENCES == pytest.approx(lru_hit_ratio(counts, size), rel=0.02)


def test_equal_rows_have_the_exact_solution() -> None:
    counts = np.full(100, 7)
    assert characteristic_time(counts, 25) == pytest.approx(-100 * math.log(0.75))
    assert lru_hit_ratio(counts, 25) == pytest.approx(0.25)


def test_rows_that_all_fit_always_hit() -> None:
    counts = np.array([5, 0, 1])
    assert characteristic_time(counts, 2) == math.inf
    assert lru_hit_ratio(counts, 2) == 1.0
