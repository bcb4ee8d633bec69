"""Several labels, weights and groups for synthetic histories. All of them depend on what the click depends on.

* `click`: 0 or 1, as without these labels.
* `buy`: 0 or 1, missing without a click. It is the more likely, the more likely the click is, and depends on the item.
* `stars`: a number from 1 to 5, for all samples: the more likely the click is, the more, with noise.
* Weights: 0 for one of 20 samples, from 0.5 to 1.5 for the others.
* Groups: the samples of a user.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bagpipe_hpc.batch import Batch, Float32Array
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.random_numbers import Float64Array, hash_of, normal, uniform
from bagpipe_hpc.data.schema import LabelSchema
from bagpipe_hpc.sharding import Int64Array

TARGETS: dict[str, Any] = {
    "labels": (
        LabelSchema(name="click"),
        LabelSchema(name="buy", optional=True),
        LabelSchema(name="stars", kind="real"),
    ),
    "weighted": True,
    "group": "user",
}
"""What the schema says of labels, weights and groups."""

_BUY, _PRICE, _NOISE, _WEIGHT = range(120, 124)


def with_targets(batch: Batch, seed: np.uint64, start: int, logits: Float64Array) -> Batch:
    """Return samples with all labels, weights and groups.

    Args:
        batch: Samples [start, start + num_samples) with clicks as labels; ids are of users and items.
        seed: Seed of all random numbers.
        start: The number of the first sample.
        logits: Of the clicks, float64, shape (num_samples,).
    """
    labels, weights = np.empty((batch.num_samples, 3), np.float32), np.empty(batch.num_samples, np.float32)
    labels[:, 0] = batch.labels
    ids = np.ascontiguousarray(batch.ids, np.int64)
    _draw_targets(seed, start, ids, logits, labels, weights)
    return replace(batch, labels=labels, sample_weights=weights, groups=ids[:, 0].copy())


@compiled
def _draw_targets(
    seed: np.uint64, start: int, ids: Int64Array, logits: Float64Array, labels: Float32Array, weights: Float32Array
) -> None:
    """Fill labels 1 and 2 and weights of the samples from start on; label 0 is given."""
    for i in range(len(logits)):
        chance = 1 / (1 + np.exp(-(logits[i] + normal(hash_of(seed, _PRICE, ids[i, 1])))))
        bought = uniform(hash_of(seed, _BUY, start + i)) < chance
        labels[i, 1] = bought if labels[i, 0] == 1 else np.nan
        stars = 4 + 0.5 * logits[i] + 0.5 * normal(hash_of(seed, _NOISE, start + i))
        labels[i, 2] = min(5.0, max(1.0, stars))
        drawn = uniform(hash_of(seed, _WEIGHT, start + i))
        weights[i] = 0.0 if drawn < 0.05 else 0.5 + (drawn - 0.05) / 0.95
