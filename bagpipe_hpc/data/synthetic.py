"""Synthetic click logs with the table sizes of public data sets, skewed ids, and labels that a model can learn.

Sample i depends only on (profile, scale, skew, seed, i): every random number is a hash of its purpose. So the stream
needs no state, any part of it can be made anywhere, and block sizes do not influence it.

* Ids: rank r of a table of n rows has a probability proportional to about r^-skew (bounded Zipf distribution, drawn by
  its inverse distribution function). An affine bijection maps ranks to the rows of the table.
* Bags: sizes are uniform; ids are drawn as above, but not mapped. Each id adds its effect.
* Labels: a hidden model, the teacher, gives every (table, rank) a normally distributed effect, adds a linear function
  of the dense features, and draws the click from the logistic function of the sum. A pilot sample calibrates spread and
  click rate.
* Drift: in a table of more than STATIC_ROWS rows, each rank is held by one id after the other, for DAYS_OF_LIFE days
  each. The ranks change hands at different times. Ids are hashes, and every id has an effect of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from bagpipe_hpc.batch import Bags, Batch, Float32Array
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.dataset import (
    SAMPLES_PER_SHARD,
    Dataset,
    DatasetWriter,
    Progress,
    no_progress,
    num_training_samples,
    open_dataset,
    refuse_occupied,
)
from bagpipe_hpc.data.random_numbers import Float64Array, bias_for, hash_of, normal, uniform, zipf_rank
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.data.shard import Compression
from bagpipe_hpc.data.synthetic_histories import ITEMS, SyntheticHistories
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.sharding import Int64Array
from bagpipe_hpc.splitmix import mix

CLICK_RATE = 0.25
LOGIT_STD = 1.4  # standard deviation of the teacher's logits: the best possible AUC is then about 0.8
BLOCK_SAMPLES = 32_768
HISTORIES = "histories"  # the profile of synthetic_histories.py
BAGS, BAG_ROWS = "bags", 100_000  # the ragged table, and its number of rows at scale 1

STATIC_ROWS, DAYS_OF_LIFE = 1_000, 5  # with drift
SECONDS_PER_DAY = 86_400

_MAX_ROWS = 3_000_000_000  # of a table, because the bijection multiplies two row numbers in int64
_PILOT_SAMPLES = 32_768
_PILOT_START = 1 << 62  # far from all samples of a data set


@dataclass(frozen=True)
class Profile:
    """Shape of a public data set: its dense features, and its tables with their real numbers of rows."""

    dense: tuple[str, ...]
    tables: dict[str, int]


def _criteo(*cardinalities: int) -> Profile:
    return Profile(
        dense=tuple(f"I{i + 1}" for i in range(13)),
        tables={f"C{i + 1}": cardinality for i, cardinality in enumerate(cardinalities)},
    )


# fmt: off
PROFILES: dict[str, Profile] = {
    "criteo-kaggle": _criteo(
        1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
        2173, 4, 7046547, 18, 15, 286181, 105, 142572,
    ),
    "criteo-terabyte": _criteo(
        227605432, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 130229467, 3067956, 405282, 10, 2209, 11938, 155, 4,
        976, 14, 292775614, 40790948, 187188510, 590152, 12973, 108, 36,
    ),
    "avazu": Profile(dense=(), tables={
        "hour": 240, "C1": 7, "banner_pos": 7, "site_id": 4737, "site_domain": 7745, "site_category": 26,
        "app_id": 8552, "app_domain": 559, "app_category": 36, "device_id": 2686408, "device_ip": 6729486,
        "device_model": 8251, "device_type": 5, "device_conn_type": 4, "C14": 2626, "C15": 8, "C16": 9, "C17": 435,
        "C18": 4, "C19": 68, "C20": 172, "C21": 60,
    }),
}
# fmt: on


class SyntheticClicks:
    """A stream of samples that can be read at any position.

    Args:
        profile: Key of PROFILES.
        scale: Factor for the tables' numbers of rows; the result is rounded up.
        skew: Exponent of the Zipf distribution; 0: uniform.
        seed: Seed of ids, teacher and labels.
        bag_size: Average number of ids per sample in an additional ragged table; 0: no such table.
        drift: Number of samples of a day: samples have times, and large tables are dynamic; 0: ids never change.
    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        profile: str,
        *,
        scale: float = 1.0,
        skew: float = 1.05,
        seed: int = 0,
        bag_size: int = 0,
        drift: int = 0,
    ) -> None:
        _check_settings(profile, scale, skew, seed, bag_size)
        if drift < 0:
            raise ConfigError(f"--drift is {drift}, but the samples of a day must be at least 1 (0: no drift)")
        shape = PROFILES[profile]
        tables = [
            _table(name, math.ceil(cardinality * scale), is_dynamic=drift > 0)
            for name, cardinality in shape.tables.items()
        ]
        bags = [TableSchema(name=BAGS, num_embeddings=math.ceil(BAG_ROWS * scale), ragged=True)] if bag_size else []
        self.schema = Schema(dense=shape.dense, tables=(*tables, *bags), time="second" if drift else None)
        self._drift = drift
        self._skew = skew
        self._seed = np.uint64(mix(np.uint64(seed)))
        self._bag_size = bag_size
        self._num_embeddings = np.array(
            [table.dynamic.capacity if table.dynamic else table.num_embeddings for table in tables], dtype=np.int64
        )
        self._scatter = np.array([_coprime_near(0.618 * n, n) for n in self._num_embeddings], dtype=np.int64)
        logits = self._draw(_PILOT_START, _PILOT_SAMPLES)[-1]
        self._gain = LOGIT_STD / float(np.std(logits))
        self._bias = bias_for(self._gain * logits, CLICK_RATE)

    @property
    def samples_per_block(self) -> int:
        """How many samples to draw at a time."""
        return BLOCK_SAMPLES

    def block(self, start: int, num_samples: int) -> tuple[Batch, Float32Array]:
        """Return samples [start, start + num_samples) and their click probabilities, float32, shape (num_samples,)."""
        ids, dense, bags, logits = self._draw(start, num_samples)
        probabilities = 1 / (1 + np.exp(-(self._gain * logits + self._bias)))
        labels = _draw_labels(self._seed, start, probabilities)
        times = SECONDS_PER_DAY * np.arange(start, start + num_samples) // self._drift if self._drift else None
        return Batch(labels, dense, ids, bags, times=times), probabilities.astype(np.float32)

    def _draw(self, start: int, num_samples: int) -> tuple[Int64Array, Float32Array, dict[str, Bags], Float64Array]:
        ids = np.empty((num_samples, len(self._num_embeddings)), np.int64)
        dense = np.empty((num_samples, self.schema.num_dense), np.float32)
        logits = np.empty(num_samples, np.float64)
        life = DAYS_OF_LIFE * self._drift
        _draw_samples(self._seed, start, self._num_embeddings, self._scatter, self._skew, life, ids, dense, logits)
        if not self._bag_size:
            return ids, dense, {}, logits
        stream, table = 4 * (len(self._num_embeddings) + self.schema.num_dense), self.schema.tables[-1]
        bags = _draw_bags(self._seed, start, stream, table.num_embeddings, self._skew, self._bag_size, logits)
        return ids, dense, {BAGS: Bags(*bags)}, logits


def synthesize(
    output: Path,
    num_samples: int,
    profile: str,
    *,
    scale: float = 1.0,
    skew: float = 1.05,
    seed: int = 0,
    bag_size: int = 0,
    history_length: int = 0,
    labels: bool = False,
    drift: int = 0,
    validation_fraction: float = 0.1,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    compression: Compression | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Write a synthetic data set. Memory does not grow with it.

    Raises:
        ConfigError: An argument is out of range.
        DatasetError: The output exists or cannot be written.
    """
    if num_samples < 1:
        raise ConfigError(f"the number of samples is {num_samples}, but must be at least 1")
    num_train = num_training_samples(num_samples, validation_fraction)
    _check_history(profile, history_length, bag_size, labels)
    if drift and profile == HISTORIES:
        raise ConfigError(f"--drift is {drift}, but the ids of --profile {HISTORIES} do not drift; choose another one")
    _check_settings(profile, scale, skew, seed, bag_size)
    refuse_occupied(output)
    progress("preparing", 0, 0)
    clicks: SyntheticClicks | SyntheticHistories
    if profile == HISTORIES:
        clicks = SyntheticHistories(scale=scale, skew=skew, seed=seed, history_length=history_length, has_labels=labels)
    else:
        clicks = SyntheticClicks(profile, scale=scale, skew=skew, seed=seed, bag_size=bag_size, drift=drift)

    def blocks() -> Iterator[Batch]:
        progress("writing shards", 0, num_samples)
        for start in range(0, num_samples, clicks.samples_per_block):
            stop = min(start + clicks.samples_per_block, num_samples)
            yield clicks.block(start, stop - start)[0]
            progress("writing shards", stop, num_samples)

    origin: dict[str, JsonValue] = {"command": "synth", "profile": profile, "scale": scale, "skew": skew, "seed": seed}
    if bag_size:
        origin["bag_size"] = bag_size
    if history_length:
        origin["history_length"] = history_length
    if labels:
        origin["labels"] = True
    if drift:
        origin["drift"] = drift
    with DatasetWriter(
        output, clicks.schema, samples_per_shard=samples_per_shard, compression=compression, origin=origin
    ) as writer:
        writer.write(blocks(), num_train)
    return open_dataset(output)


def _table(name: str, num_rows: int, *, is_dynamic: bool) -> TableSchema:
    """Return a table. If it is large and may be dynamic, there are rows for all ids that live at the same time."""
    if not is_dynamic or num_rows <= STATIC_ROWS:
        return TableSchema(name=name, num_embeddings=num_rows)
    rules = DynamicSchema(capacity=num_rows, at_capacity="oldest")
    return TableSchema(name=name, num_embeddings=rules.num_rows, dynamic=rules, id_type="integer")


def _check_history(profile: str, history_length: int, bag_size: int, labels: bool) -> None:
    if profile != HISTORIES:
        if labels:
            raise ConfigError(f"--labels is for --profile {HISTORIES}, but the profile is {profile}; remove it")
        if history_length:
            raise ConfigError(f"--history-length is for --profile {HISTORIES}, but the profile is {profile}; remove it")
        return
    if not 1 <= history_length <= 10_000:
        raise ConfigError(f"the length of a history is {history_length}, but must be from 1 to 10,000")
    if bag_size:
        raise ConfigError(f"--bag-size is {bag_size}, but --profile {HISTORIES} has no bags; remove it")


def _check_settings(profile: str, scale: float, skew: float, seed: int, bag_size: int) -> None:
    if not 0 <= bag_size <= 10_000:
        raise ConfigError(f"the size of a bag is {bag_size}, but must be from 0 (no bags) to 10,000")
    if profile not in (*PROFILES, HISTORIES):
        raise ConfigError(f"the profile is {profile!r}, but must be one of {', '.join((*PROFILES, HISTORIES))}")
    max_scale = _MAX_ROWS / (max(PROFILES[profile].tables.values()) if profile in PROFILES else ITEMS)
    if not 0 < scale <= max_scale:
        raise ConfigError(f"the scale is {scale}, but must be above 0 and at most {max_scale:.1f} for {profile}")
    if not 0 <= skew <= 5:
        raise ConfigError(f"the skew is {skew}, but must be from 0 (uniform) to 5")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"the seed is {seed}, but must be from 0 to 2^63 - 1")


def _coprime_near(target: float, modulus: int) -> int:
    """Return the first integer from target on that has no common factor with modulus."""
    factor = max(1, int(target))
    while math.gcd(factor, modulus) != 1:
        factor += 1
    return factor


@compiled
def _draw_samples(
    seed: np.uint64,
    start: int,
    num_embeddings: Int64Array,
    scatter: Int64Array,
    skew: float,
    life: int,
    ids: Int64Array,
    dense: Float32Array,
    logits: Float64Array,
) -> None:
    """Fill ids (n, tables), dense (n, features) and uncalibrated logits (n,) of the samples from start on.

    Streams of random numbers: 4k + 0 ids and 4k + 1 effects of table k, 4k + 2 values and 4k + 3 weights of feature k.
    If ids drift, they live for `life` samples; the streams of table k are 1,000 + 2k and 1,001 + 2k. 0: they do not.
    """
    num_tables, num_dense = ids.shape[1], dense.shape[1]
    for i in range(len(logits)):
        logit = 0.0
        for k in range(num_tables):
            num_rows = num_embeddings[k]
            rank = zipf_rank(uniform(hash_of(seed, 4 * k, start + i)), num_rows, skew)
            if life and num_rows > STATIC_ROWS:
                phase = int(hash_of(seed, 1_000 + 2 * k, rank) % np.uint64(life))
                holder = (start + i + phase) // life
                holder_id = hash_of(seed, 1_001 + 2 * k, rank * 2**20 + holder)
                ids[i, k] = np.int64(holder_id)
                logit += normal(mix(seed + holder_id))
                continue
            ids[i, k] = (rank * scatter[k] + num_rows // 2) % num_rows
            logit += normal(hash_of(seed, 4 * k + 1, rank))
        for k in range(num_dense):
            value = -math.log(uniform(hash_of(seed, 4 * k + 2, start + i)))
            dense[i, k] = value
            logit += 0.5 * (value - 1.0) * normal(hash_of(seed, 4 * k + 3, 0))
        logits[i] = logit


@compiled
def _draw_bags(
    seed: np.uint64, start: int, stream: int, num_rows: int, skew: float, mean_size: int, logits: Float64Array
) -> tuple[Int64Array, Int64Array]:
    """Return offsets (n + 1,) and ids of bags of 0 to 2 mean_size ids; add the effects of the ids to logits (n,).

    Streams of random numbers: `stream` for sizes, `stream` + 1 for ids, `stream` + 2 for effects.
    """
    offsets = np.zeros(len(logits) + 1, np.int64)
    for i in range(len(logits)):
        offsets[i + 1] = offsets[i] + int(uniform(hash_of(seed, stream, start + i)) * (2 * mean_size + 1))
    ids = np.empty(offsets[-1], np.int64)
    for i in range(len(logits)):
        for j in range(offsets[i], offsets[i + 1]):
            counter = (start + i) * (2 * mean_size + 1) + j - offsets[i]
            ids[j] = zipf_rank(uniform(hash_of(seed, stream + 1, counter)), num_rows, skew)
            logits[i] += normal(hash_of(seed, stream + 2, ids[j])) / math.sqrt(mean_size)
    return offsets, ids


@compiled
def _draw_labels(seed: np.uint64, start: int, probabilities: Float64Array) -> Float32Array:
    labels = np.empty(len(probabilities), np.float32)
    for i in range(len(labels)):
        labels[i] = uniform(hash_of(seed, -1, start + i)) < probabilities[i]
    return labels
