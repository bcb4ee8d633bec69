"""Metrics of order against their definitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from bagpipe_hpc.oracle.ranking import auc, grouped_metrics, weighted_auc

Array = NDArray[np.float32]


def samples(seed: int, num_samples: int = 200) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Return logits with ties, labels, weights and groups, some of which have one label only."""
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(size=num_samples), 1).astype(np.float32)
    labels = (random.random(num_samples) < 0.3).astype(np.float32)
    weights = random.integers(0, 4, num_samples).astype(np.float32)
    return logits, labels, weights, random.integers(-20, 20, num_samples)


def pairs(logits: Array, labels: Array, weights: Array) -> tuple[float, float]:
    """Return the weight of the pairs that are ranked well, and of all pairs."""
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = float(weights[i]) * float(weights[j])
            won += pair * (1.0 if logits[i] > logits[j] else 0.5 if logits[i] == logits[j] else 0.0)
            total += pair
    return won, total


def parts(groups: NDArray[np.int64], labels: Array) -> Iterator[NDArray[np.bool_]]:
    for group in np.unique(groups):
        part = groups == group
        if 0 < labels[part].mean() < 1:
            yield part


@pytest.mark.parametrize("seed", range(3))
def test_weighted_auc(seed: int) -> None:
    logits, labels, weights, _ = samples(seed)
    won, total = pairs(logits, labels, weights)
    assert weighted_auc(logits, labels, weights) == pytest.approx(won / total, rel=1e-12)
    assert weighted_auc(logits, labels, np.ones_like(weights)) == pytest.approx(auc(logits, labels), rel=1e-12)


def test_pairs_without_weight_make_no_auc() -> None:
    assert weighted_auc(np.zeros(2, np.float32), np.array([0, 1], np.float32), np.array([0, 1], np.float32)) is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_weighted", [False, True])
def test_grouped_auc(seed: int, is_weighted: bool) -> None:
    logits, labels, weights, groups = samples(seed)
    used = weights if is_weighted else np.ones_like(weights)
    values, sizes = [], []
    for part in parts(groups, labels):
        won, total = pairs(logits[part], labels[part], used[part])
        if total:
            values.append(won / total)
            sizes.append(used[part].sum())
    found = grouped_metrics(logits, labels, groups, 3, weights if is_weighted else None)
    assert found.num_groups == len(values)
    assert found.grouped_auc == pytest.approx(np.average(values, weights=sizes), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 3, 100])
def test_hit_rate_and_ndcg(seed: int, k: int) -> None:
    logits, labels, _, groups = samples(seed)
    hits, gains = [], []
    for part in parts(groups, labels):
        ranked = sorted(zip(-logits[part], labels[part], strict=True))
        top = [label for _, label in ranked[:k]]
        best = sorted(labels[part], reverse=True)[:k]
        gains.append(discounted(top) / discounted(best))
        hits.append(1.0 in top)
    found = grouped_metrics(logits, labels, groups, k)
    assert found.hit_rate == pytest.approx(np.mean(hits))
    assert found.ndcg == pytest.approx(np.mean(gains))


def discounted(labels: list[float]) -> float:
    return float(sum(label / np.log2(rank + 2) for rank, label in enumerate(labels)))


def test_equal_predictions_do_not_look_good() -> None:
    labels = np.array([1, 0, 0, 0], np.float32)
    found = grouped_metrics(np.zeros(4, np.float32), labels, np.zeros(4, np.int64), 3)
    assert (found.grouped_auc, found.hit_rate, found.ndcg) == (0.5, 0, 0)


@pytest.mark.parametrize("num_samples", [0, 3])
def test_without_a_group_that_has_both_labels_there_are_no_metrics(num_samples: int) -> None:
    labels = np.ones(num_samples, np.float32)
    found = grouped_metrics(labels, labels, np.zeros(num_samples, np.int64), 5)
    assert (found.num_groups, found.grouped_auc, found.hit_rate, found.ndcg) == (0, None, None, None)


def test_a_heavy_group_changes_nothing_in_the_others() -> None:
    logits, labels, weights, groups = samples(0)
    heavy = groups == groups.min()  # the first one; with one label it does not count
    labels[heavy], weights[heavy] = 1, 1e30
    found = grouped_metrics(logits, labels, groups, 3, weights)
    assert found == grouped_metrics(logits[~heavy], labels[~heavy], groups[~heavy], 3, weights[~heavy])


def test_hit_rate_and_ndcg_do_not_need_weights() -> None:
    logits, labels, _, groups = samples(1)
    plain = grouped_metrics(logits, labels, groups, 3)
    weightless = grouped_metrics(logits, labels, groups, 3, np.zeros_like(logits))
    assert (weightless.num_groups, weightless.grouped_auc) == (0, None)
    assert (weightless.hit_rate, weightless.ndcg) == (plain.hit_rate, plain.ndcg)
