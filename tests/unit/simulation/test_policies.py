"""Policies of libCacheSim: the trace that it reads is ours, and what is missing is named."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.errors import ConfigError, PlatformError
from bagpipe_hpc.simulation import policies
from bagpipe_hpc.simulation.accesses import NEVER, accesses_of
from bagpipe_hpc.simulation.policies import count_policy_hits, parse_policies

from .streams import Samples, samples_of_few_keys, stream_from, zipf


def lru_hits(keys: list[int], cache_rows: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in keys:
        hits += key in cache
        cache[key] = None
        cache.move_to_end(key)
        if len(cache) > cache_rows:
            cache.popitem(last=False)
    return hits


def belady_hits(keys: list[int], following: list[int], cache_rows: int) -> int:
    """Evicts, after a miss, the row with the farthest next use among all others."""
    cache: dict[int, float] = {}
    hits = 0
    for place, key in enumerate(keys):
        hits += key in cache
        if key not in cache and len(cache) == cache_rows:
            del cache[max(cache, key=lambda each: cache[each])]
        cache[key] = following[place] if following[place] != NEVER else float("inf")
    return hits


@settings(max_examples=20, deadline=None)
@given(samples_of_few_keys, st.integers(1, 3), st.integers(1, 6))
def test_lru_and_belady_equal_twins(samples: Samples, batch_size: int, cache_rows: int) -> None:
    pytest.importorskip("libcachesim")
    accesses = accesses_of(stream_from(samples), batch_size, 1)
    keys, following = accesses.entries.tolist(), accesses.next_entries().tolist()
    found = count_policy_hits(accesses, ["lru", "belady"], [cache_rows])
    assert found["lru", cache_rows] == lru_hits(keys, cache_rows)
    assert found["belady", cache_rows] == belady_hits(keys, following, cache_rows)


def test_every_run_is_noted() -> None:
    pytest.importorskip("libcachesim")
    noted: list[tuple[str, int]] = []
    accesses = accesses_of(zipf(1000, 200, 1.0, seed=0), 1, 1)
    count_policy_hits(accesses, ["s3fifo", "arc"], [10, 150], lambda policy, size: noted.append((policy, size)))
    assert noted == [("s3fifo", 150), ("arc", 10), ("arc", 150)]


def test_without_policies_no_library_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    accesses = accesses_of(stream_from([[0], [1]]), 1, 1)
    assert count_policy_hits(accesses, [], [1]) == {}
    with pytest.raises(PlatformError, match=r"need the library libcachesim .*pip install --no-deps libcachesim"):
        count_policy_hits(accesses, ["lru"], [1])


def test_names_of_policies() -> None:
    assert parse_policies("lru, arc") == ("lru", "arc")
    assert parse_policies("") == ()
    with pytest.raises(ConfigError, match="has 'mru'; allowed: lru, lfu, s3fifo, arc, sieve, belady"):
        parse_policies("lru,mru")
    assert set(policies.MIN_ROWS) < set(policies.POLICIES)
