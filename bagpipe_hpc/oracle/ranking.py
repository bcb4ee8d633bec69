"""Metrics of order: how well predictions rank samples that have a label of 1 above those that have 0. Pure.

**Groups.** Samples of one user, or of one request, are a group. Only groups that have samples with both labels count,
because in the others there is nothing to rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class GroupedMetrics:
    """How well samples are ranked within their groups. All metrics are None if no group has samples with both labels.

    Args:
        num_groups: The number of groups that have samples with both labels, of a weight above 0.
        grouped_auc: The mean AUC of these groups, weighted with their samples.
        hit_rate: The fraction of these groups that have a sample with label 1 among their first k.
        ndcg: The mean normalised discounted cumulative gain of the first k samples of these groups.
    """

    num_groups: int
    grouped_auc: float | None = None
    hit_rate: float | None = None
    ndcg: float | None = None


def auc(logits: Float32Array, labels: Float32Array) -> float:
    """Return the probability that a sample with label 1 has a larger logit than one with label 0. A tie counts half.

    Args:
        logits: float32, shape (n,).
        labels: 0 or 1, both of them, float32, shape (n,).
    """
    positive, negative = np.sort(logits[labels == 1]), np.sort(logits[labels == 0])
    num_below = int(np.searchsorted(negative, positive, "left").sum())
    num_up_to = int(np.searchsorted(negative, positive, "right").sum())
    return (num_below + num_up_to) / (2 * len(positive) * len(negative))


def weighted_auc(logits: Float32Array, labels: Float32Array, weights: Float32Array) -> float | None:
    """Return the AUC in which a pair of samples counts as the product of their weights; None if no pair counts.

    Args:
        logits: float32, shape (n,).
        labels: 0 or 1, float32, shape (n,).
        weights: Not negative, float32, shape (n,).
    """
    one_group = np.zeros(len(logits), np.int64)
    won, pairs, _ = _pairs_by_group(logits, labels, weights, one_group)
    return float(won[0] / pairs[0]) if len(pairs) and pairs[0] > 0 else None


def grouped_metrics(
    logits: Float32Array, labels: Float32Array, groups: Int64Array, k: int, weights: Float32Array | None = None
) -> GroupedMetrics:
    """Return the metrics of order within groups.

    Within a group the largest logit comes first. Among samples with equal logits, those with label 0 come first: a
    model that predicts the same for all samples must not look good.

    Args:
        logits: float32, shape (n,).
        labels: 0 or 1, float32, shape (n,).
        groups: int64, shape (n,).
        k: How many samples of a group count for the hit rate and the NDCG, at least 1.
        weights: Not negative, float32, shape (n,), for the AUC alone; None: all samples count the same.
    """
    if not len(logits):
        return GroupedMetrics(0)
    used = np.ones(len(logits), np.float32) if weights is None else weights
    won, pairs, sizes = _pairs_by_group(logits, labels, used, groups)
    counts = pairs > 0
    num_groups = int(counts.sum())
    grouped_auc = float(np.average(won[counts] / pairs[counts], weights=sizes[counts])) if num_groups else None
    return GroupedMetrics(num_groups, grouped_auc, *_first_of_groups(logits, labels, groups, k))


def _pairs_by_group(
    logits: Float32Array, labels: Float32Array, weights: Float32Array, groups: Int64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return for each group the weight of the pairs that are ranked well, of all pairs, and of all samples."""
    order = np.lexsort((logits, groups))
    groups, logits = groups[order], logits[order]
    positive = np.where(labels[order] == 1, weights[order], 0).astype(np.float64)
    negative = np.where(labels[order] == 1, 0, weights[order]).astype(np.float64)
    starts = _starts(groups)
    ends = np.concatenate([starts[1:], [len(groups)]])
    won, positives, negatives = (np.zeros(len(starts)) for _ in range(3))
    _add_up_pairs(starts, ends, logits, positive, negative, won, positives, negatives)
    return won, positives * negatives, positives + negatives


def _starts(groups: Int64Array) -> Int64Array:
    """Return where each group begins among samples that are sorted by group, of which there is at least one."""
    return np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))


@compiled
def _add_up_pairs(
    starts: Int64Array,
    ends: Int64Array,
    logits: Float32Array,
    positive: Float64Array,
    negative: Float64Array,
    won: Float64Array,
    positives: Float64Array,
    negatives: Float64Array,
) -> None:
    """Add up the weights of each group, and those of the pairs that are ranked well.

    The sums of a group begin at zero, so that a heavy group changes nothing in the others.

    Args:
        starts, ends: The samples of each group, sorted by logit.
        logits: Of each sample.
        positive, negative: The weight of each sample if its label is 1, and if it is 0; otherwise 0.
        won, positives, negatives: Of each group, 0 at first.
    """
    for group in range(len(starts)):
        first = starts[group]
        while first < ends[group]:
            run_positive = run_negative = 0.0  # of the samples with the same logit
            sample = first
            while sample < ends[group] and logits[sample] == logits[first]:
                run_positive += positive[sample]
                run_negative += negative[sample]
                sample += 1
            if sample == first:  # a logit that is not a number equals nothing
                return
            won[group] += run_positive * (negatives[group] + run_negative / 2)
            positives[group] += run_positive
            negatives[group] += run_negative
            first = sample


def _first_of_groups(
    logits: Float32Array, labels: Float32Array, groups: Int64Array, k: int
) -> tuple[float | None, float | None]:
    """Return the hit rate and the NDCG of the first k samples of each group that has samples with both labels."""
    order = np.lexsort((labels, -logits, groups))
    groups, is_positive = groups[order], labels[order] == 1
    starts = _starts(groups)
    sizes = np.diff([*starts, len(groups)])
    ranks = np.arange(len(groups)) - np.repeat(starts, sizes)
    num_positive = np.add.reduceat(is_positive.astype(np.int64), starts)
    counts = (num_positive > 0) & (num_positive < sizes)
    if not counts.any():
        return None, None
    gains = np.where(is_positive & (ranks < k), 1 / np.log2(ranks + 2), 0)
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(min(k, num_positive.max())) + 2))])
    gained = np.add.reduceat(gains, starts)[counts]
    best = ideal[np.minimum(num_positive, len(ideal) - 1)][counts]
    return float((gained > 0).mean()), float((gained / best).mean())
