"""Synthetic click histories: what a user has clicked says what they click next, the newest clicks most.

As in `synthetic.py`, sample i depends only on (scale, skew, seed, history length, i).

* Items belong to clusters: item r to cluster r % CLUSTERS. A user likes two clusters, which depend on the user alone.
* A history has 0 to 2 `history_length` items, the oldest first. Three of five come from the clusters of the user, the
  others from any. Each has a time in seconds, a number of stars and an action.
* The candidate comes from the clusters of the user in half of the samples.
* Labels: the teacher adds up how much of the history belongs to the cluster of the candidate, where an element counts
  0.7 times as much as the next newer one, and an effect of the candidate. A pilot sample calibrates spread and rate.
"""

from __future__ import annotations

import math

import numpy as np

from bagpipe_hpc.batch import Bags, Batch, Float32Array
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.random_numbers import Float64Array, bias_for, hash_of, normal, uniform, zipf_rank
from bagpipe_hpc.data.schema import ElementSchema, Schema, TableSchema
from bagpipe_hpc.data.synthetic_labels import TARGETS, with_targets
from bagpipe_hpc.sharding import Int64Array
from bagpipe_hpc.splitmix import mix

USERS, ITEMS, ACTIONS = 1_000_000, 1_000_000, 4  # rows at scale 1
CLUSTERS = 64
CLICK_RATE, LOGIT_STD = 0.25, 2.0
_PILOT_SAMPLES, _PILOT_START = 16_384, 1 << 52  # far from all samples of a data set
_DECAY = 0.7
_BLOCK_ELEMENTS = 1 << 20
_FIRST_TIME, _MEAN_GAP = 1_700_000_000, 3_600.0  # seconds
_USER, _INTEREST, _LENGTH, _SOURCE, _ITEM, _GAP, _STARS, _ACTION, _CANDIDATE, _EFFECT, _LABEL, _HOUR = range(100, 112)


class SyntheticHistories:
    """A stream of samples that can be read at any position.

    Args:
        scale: Factor for the numbers of users and items; the result is rounded up.
        skew: Exponent of the Zipf distribution of users, and of the items of a cluster; 0: uniform.
        seed: Seed of everything.
        history_length: The average number of elements of a history.
        has_labels: Whether samples have several labels, weights and groups (synthetic_labels.py).
    """

    def __init__(self, *, scale: float, skew: float, seed: int, history_length: int, has_labels: bool = False) -> None:
        num_users, num_items = (max(CLUSTERS, math.ceil(scale * number)) for number in (USERS, ITEMS))
        elements = (ElementSchema(name="time", kind="integer"), ElementSchema(name="stars"))
        self.schema = Schema(
            dense=("hour",),
            tables=(
                TableSchema(name="user", num_embeddings=num_users),
                TableSchema(name="item", num_embeddings=num_items),
                TableSchema(
                    name="clicked", num_embeddings=num_items, ragged=True, shares="item", sequence=True,
                    elements=elements,
                ),
                TableSchema(name="action", num_embeddings=ACTIONS, ragged=True, sequence=True, along="clicked"),
            ),
            **(TARGETS if has_labels else {}),
        )  # fmt: skip
        self._has_labels = has_labels
        self._seed = np.uint64(mix(np.uint64(seed)))
        self._sizes = num_users, num_items, skew, history_length
        self._gain, self._bias = 1.0, 0.0
        bounds = range(_PILOT_START, _PILOT_START + _PILOT_SAMPLES, self.samples_per_block)
        pieces = [self._draw(start, min(self.samples_per_block, bounds.stop - start))[1] for start in bounds]
        logits = np.concatenate(pieces)
        self._gain = LOGIT_STD / float(np.std(logits))
        self._bias = bias_for(self._gain * logits, CLICK_RATE)

    @property
    def samples_per_block(self) -> int:
        """How many samples to draw at a time, so that a block has about a million elements."""
        return max(1, _BLOCK_ELEMENTS // self._sizes[-1])

    def block(self, start: int, num_samples: int) -> tuple[Batch, Float32Array]:
        """Return samples [start, start + num_samples) and their click probabilities, float32, shape (num_samples,)."""
        batch, logits = self._draw(start, num_samples)
        logits = self._gain * logits + self._bias
        probabilities = 1 / (1 + np.exp(-logits))
        _draw_labels(self._seed, start, probabilities, batch.labels)
        if self._has_labels:
            batch = with_targets(batch, self._seed, start, logits)
        return batch, probabilities.astype(np.float32)

    def _draw(self, start: int, num_samples: int) -> tuple[Batch, Float64Array]:
        """Return samples without labels, and their logits."""
        num_users, num_items, skew, history_length = self._sizes
        offsets = np.zeros(num_samples + 1, np.int64)
        _draw_lengths(self._seed, start, history_length, offsets)
        num_elements = int(offsets[-1])
        ids, hours = np.empty((num_samples, 2), np.int64), np.empty((num_samples, 1), np.float32)
        clicked, times, actions = (np.empty(num_elements, np.int64) for _ in range(3))
        stars, logits = np.empty(num_elements, np.float32), np.empty(num_samples)
        _draw_samples(
            self._seed, start, num_users, num_items, skew, 2 * history_length + 1, offsets, ids, hours, clicked, times,
            stars, actions, logits,
        )  # fmt: skip
        bags = {
            "clicked": Bags(offsets, clicked, elements={"time": times, "stars": stars}),
            "action": Bags(offsets, actions),
        }
        return Batch(np.zeros(num_samples, np.float32), hours, ids, bags), logits


@compiled
def _draw_lengths(seed: np.uint64, start: int, mean: int, offsets: Int64Array) -> None:
    for i in range(len(offsets) - 1):
        offsets[i + 1] = offsets[i] + int(uniform(hash_of(seed, _LENGTH, start + i)) * (2 * mean + 1))


@compiled
def _cluster_of(seed: np.uint64, user: int, bits: np.uint64, liked_share: float) -> int:
    """Return one of the two clusters that a user likes, with a probability of liked_share, else any."""
    chance = uniform(bits)
    if chance < liked_share:
        return int(hash_of(seed, _INTEREST, 2 * user + (chance < liked_share / 2)) % np.uint64(CLUSTERS))
    return int(mix(bits) % np.uint64(CLUSTERS))


@compiled
def _item_of(cluster: int, bits: np.uint64, num_items: int, skew: float) -> int:
    in_cluster = (num_items - cluster + CLUSTERS - 1) // CLUSTERS
    return cluster + CLUSTERS * zipf_rank(uniform(bits), in_cluster, skew)


@compiled
def _draw_samples(
    seed: np.uint64,
    start: int,
    num_users: int,
    num_items: int,
    skew: float,
    most_elements: int,
    offsets: Int64Array,
    ids: Int64Array,
    hours: Float32Array,
    clicked: Int64Array,
    times: Int64Array,
    stars: Float32Array,
    actions: Int64Array,
    logits: Float64Array,
) -> None:
    """Fill the arrays of the samples from start on. Shapes are those of a batch; logits are not calibrated."""
    for i in range(len(logits)):
        user = zipf_rank(uniform(hash_of(seed, _USER, start + i)), num_users, skew)
        bits = hash_of(seed, _CANDIDATE, start + i)
        cluster = _cluster_of(seed, user, bits, 0.5)
        item = _item_of(cluster, mix(bits ^ np.uint64(1)), num_items, skew)
        ids[i, 0], ids[i, 1] = user, item
        hours[i, 0] = 24 * uniform(hash_of(seed, _HOUR, start + i))
        time = np.float64(_FIRST_TIME)
        affinity = weights = 0.0
        for j in range(offsets[i], offsets[i + 1]):
            counter = (start + i) * most_elements + j - offsets[i]
            own = _cluster_of(seed, user, hash_of(seed, _SOURCE, counter), 0.6)
            clicked[j] = _item_of(own, hash_of(seed, _ITEM, counter), num_items, skew)
            time += 1 - _MEAN_GAP * math.log(uniform(hash_of(seed, _GAP, counter)))
            times[j] = int(time)
            stars[j] = 1 + int(5 * uniform(hash_of(seed, _STARS, counter)))
            actions[j] = int(ACTIONS * uniform(hash_of(seed, _ACTION, counter)))
            affinity, weights = _DECAY * affinity + (own == cluster), _DECAY * weights + 1
        logits[i] = 0.2 * normal(hash_of(seed, _EFFECT, item)) + (affinity / weights if weights else 0.0)


@compiled
def _draw_labels(seed: np.uint64, start: int, probabilities: Float64Array, labels: Float32Array) -> None:
    for i in range(len(labels)):
        labels[i] = uniform(hash_of(seed, _LABEL, start + i)) < probabilities[i]
