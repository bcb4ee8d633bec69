"""What trainers get of the samples of a batch besides rows, and how much each sample counts in the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.protocol.plan import BagLists, Float64Array, Int64Array, Samples


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
    labels = batch.labels if batch.labels.ndim == 2 else batch.labels[:, None]
    weights = np.ones(batch.num_samples) if batch.sample_weights is None else batch.sample_weights.astype(np.float64)
    sums = np.where(np.isnan(labels), 0, weights[:, None]).sum(axis=0)
    divisors: Float64Array = np.where(sums > 0, sums, 1.0)
    return divisors
