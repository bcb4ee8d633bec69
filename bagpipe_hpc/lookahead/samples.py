"""What trainers get of the samples of a batch besides rows, and how much each sample counts in the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.protocol.plan import BagLists, Float32Array, Float64Array, Int64Array, Samples


def samples_of(batch: Batch, bags: BagLists, sample_ends: Int64Array, *, has_plain_labels: bool) -> Samples:
    """Return the samples of a batch, as they go into a plan.

    Args:
        batch: The batch.
        bags: Its bags, for the trainers.
        sample_ends: See Samples.
        has_plain_labels: See Schema.
    """
    samples = Samples(batch.labels, batch.dense, bags, sample_ends, batch.read_only)
    if has_plain_labels and batch.groups is None:
        return samples
    return replace(
        samples,
        sample_weights=samples.sample_weights if batch.sample_weights is None else batch.sample_weights,
        groups=samples.groups if batch.groups is None else batch.groups,
        loss_divisors=samples.loss_divisors if has_plain_labels else loss_divisors(batch),
    )


def loss_divisors(batch: Batch) -> Float64Array:
    """Return what the mean loss of each label divides by, float64, shape (num_labels,).

    That is the number of samples that have the label or, if samples have weights, the sum of their weights. It is 1 if
    this sum is 0: then all losses of the label count 0.
    """
    return _weights_of(batch.labels, batch.sample_weights, lambda labels: ~np.isnan(labels))


def positive_weights(samples: Samples) -> Float64Array:
    """Return what the mean loss over the samples whose label is 1 divides by, of each label; see `loss_divisors`."""
    weights = samples.sample_weights if len(samples.sample_weights) else None
    return _weights_of(samples.labels, weights, lambda labels: labels == 1)


def _weights_of(
    labels: Float32Array, weights: Float32Array | None, counts: Callable[[Float32Array], NDArray[np.bool_]]
) -> Float64Array:
    """Return the sum of the weights of the samples that count, of each label; 1 where it is 0."""
    labels = labels if labels.ndim == 2 else labels[:, None]
    each = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    sums = np.where(counts(labels), each[:, None], 0).sum(axis=0)
    divisors: Float64Array = np.where(sums > 0, sums, 1.0)
    return divisors
