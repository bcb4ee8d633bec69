"""Approximate keys: equal to a twin, errors bounded by refreshing, and near the model on independent requests."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.simulation.approximate_keys import (
    NO_REFRESH,
    ApproximateKeys,
    group_keys,
    model_approximate,
    play_approximate,
)
from bagpipe_hpc.simulation.hot_set import hottest

from .streams import Samples, samples_of_few_keys, stream_from, zipf


def twin(keys: list[int], groups: ApproximateKeys, cache_rows: int, beta: float, may_enter: list[bool]) -> list[float]:
    """Hits, errors and refreshes, as shares of all requests."""
    cache: OrderedDict[int, list[float]] = OrderedDict()  # stored key, successes in a row, requests until the refresh
    hits = errors = refreshes = 0
    for key in keys:
        group = int(groups.of_keys[key])
        if group in cache:
            stored, successes, left = cache[group]
            if beta == NO_REFRESH or left > 1:
                hits += 1
                errors += stored != key
                cache[group] = [stored, successes, left - 1]
            else:
                refreshes += 1
                successes = successes + 1 if stored == key else 0
                cache[group] = [key, successes, int(beta**successes)]
            cache.move_to_end(group)
        elif may_enter[group]:
            cache[group] = [key, 0, 1]
            if len(cache) > cache_rows:
                cache.popitem(last=False)
    return [count / len(keys) for count in (hits, errors, refreshes)]


@given(samples_of_few_keys, st.integers(1, 4), st.sampled_from([NO_REFRESH, 1.0, 1.5, 2.0]), st.booleans())
def test_it_equals_a_twin(samples: Samples, cache_rows: int, beta: float, ideal: bool) -> None:
    stream = stream_from(samples)
    groups = group_keys(stream, 2)
    counts = np.bincount(groups.of_keys, weights=stream.counts())
    may_enter = hottest(counts.astype(np.int64), cache_rows) if ideal else np.ones(len(counts), bool)
    found = play_approximate(stream, groups, cache_rows, beta, ideal=ideal)
    expected = twin(stream.keys.tolist(), groups, cache_rows, beta, may_enter.tolist())
    assert [found.hit_ratio, found.error_ratio, found.refresh_ratio] == pytest.approx(expected)


def test_rows_of_a_table_share_approximate_keys() -> None:
    stream = stream_from([[0, 1, 2, 3, 4, 10, 11]], (10, 10))
    assert group_keys(stream, 2).of_keys.tolist() == [0, 1, 2, 0, 1, 3, 3]
    assert group_keys(stream, 2).num_groups == 4
    assert group_keys(stream, 1).num_groups == 7


@pytest.mark.parametrize("ideal", [False, True])
def test_refreshing_bounds_errors(ideal: bool) -> None:
    stream = zipf(50_000, 2_000, 1.0, seed=8)
    groups = group_keys(stream, 4)
    found = [play_approximate(stream, groups, 100, beta, ideal=ideal) for beta in (1.0, 1.5, 2.0, NO_REFRESH)]
    assert found[0].error_ratio == found[0].hit_ratio == 0  # every answer is computed
    assert np.all(np.diff([each.error_ratio for each in found]) > 0)
    assert np.all(np.diff([each.hit_ratio for each in found]) > 0)
    exact = play_approximate(stream, group_keys(stream, 1), 100, NO_REFRESH, ideal=ideal)
    assert exact.error_ratio == 0


@pytest.mark.parametrize("ideal", [False, True])
@pytest.mark.parametrize("beta", [NO_REFRESH, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("cache_rows", [20, 100, 500])
def test_the_model_is_near_on_independent_requests(cache_rows: int, beta: float, ideal: bool) -> None:
    stream = zipf(400_000, 2_000, 0.9, seed=9)
    groups = group_keys(stream, 4)
    found = play_approximate(stream, groups, cache_rows, beta, ideal=ideal)
    model = model_approximate(stream, groups, cache_rows, beta, ideal=ideal)
    assert model.hit_ratio == pytest.approx(found.hit_ratio, rel=0.03, abs=0.001)
    # Without refreshes, an ideal cache draws one answer per approximate key, so a trace has few of them.
    assert model.error_ratio == pytest.approx(found.error_ratio, rel=0.2 if ideal and not beta else 0.05, abs=0.002)
    assert model.refresh_ratio == pytest.approx(found.refresh_ratio, rel=0.12, abs=0.002)
