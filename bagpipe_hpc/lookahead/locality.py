"""The assignment of samples to trainers by locality, so that trainers share few rows. In the paper, each trainer takes
consecutive samples.

A row that only one trainer uses costs no traffic between trainers. Any trainer can take any sample of a batch. Samples
are assigned one by one, in order, as in linear deterministic greedy partitioning of a graph stream (Stanton and Kliot,
KDD 2012). A sample goes to the trainer t for which this product is largest:

    (1 + sum of the weights of the sample's keys that t has) * (number of samples that t has still to take)

- Trainer t *has* a key if it took an earlier sample of this batch with that key, or if it is the key's *home*. The home
  of a key is the trainer that took the first sample with the key, and so most likely owns its row. It is kept from
  batch to batch, so that samples come back to the trainer that has their rows in its cache.
- A key in c samples of the batch has the weight max(0, 4 T - c). The more samples use a row, the more likely every
  trainer needs it in any case.

The rule depends on the batches so far, and neither on the lookahead window nor on caches. So cached and synchronous
runs assign samples in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.cache_hint import DISTANCE, hint
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.feature_tables import FeatureTables, one_id_per_table
from bagpipe_hpc.lookahead.features import KeysBySample

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

NUM_BUCKETS = 1 << 22
HOT = 4  # a key in HOT * T or more samples of a batch has no weight
HOME_BITS = 16
HOME_MASK = (1 << HOME_BITS) - 1
BUCKET, HOME, COUNT = 0, 1, 2  # columns of the entries of a batch; HOME holds home + 1, or 0 for no home


@dataclass(frozen=True)
class AssignerState:
    """What the assignment of later batches depends on.

    Args:
        num_entries: Number of entries of all batches so far, plus 1.
        used: Buckets that are not 0, int64, shape (n,), ascending.
        homes: Content of these buckets, int64, shape (n,).
    """

    num_entries: int
    used: Int64Array
    homes: Int64Array


class LocalityAssigner:
    """Assigns the samples of one batch after the other to trainers.

    Keys that are equal modulo `num_buckets` share a bucket, and so a home. The *entries* of a batch are its distinct
    buckets. Their numbers go on from batch to batch. A bucket is an int64: number of its latest entry << 16 | home + 1.
    All buckets take 32 MiB by default, whatever the number of keys. A home is forgotten when its bucket is not among
    the latest `num_buckets / 2` entries. So half of the buckets are free for new keys, however long the job runs.

    Args:
        num_trainers: T, below 65,536.
        table_offsets: First key of each table, then the number of all keys, int64, shape (num_tables + 1,).
        features: The features of a sample and their tables; None: one one-hot feature for each table.
        num_buckets: A power of two.
    Communication: none.
    """

    def __init__(
        self,
        num_trainers: int,
        table_offsets: Int64Array,
        features: FeatureTables | None = None,
        *,
        num_buckets: int = NUM_BUCKETS,
    ) -> None:
        self.num_trainers = num_trainers
        self._by_sample = KeysBySample(features or one_id_per_table(len(table_offsets) - 1), table_offsets)
        self._buckets = np.zeros(num_buckets, dtype=np.int64)
        self._num_entries = 1  # in all batches so far; buckets that no entry had say 0

    def order(self, ids: Int32Array | Int64Array, share_ends: Int64Array, bags: Sequence[Bags] = ()) -> Int32Array:
        """Assign the samples of one batch to trainers. Batches come in the order of the stream.

        Args:
            ids: Row ids of the one-hot features, int32 or int64, shape (num_samples, num_one_hot). They are not
                checked.
            share_ends: int64, shape (T + 1,): trainer t takes share_ends[t + 1] - share_ends[t] samples.
            bags: Of each ragged feature, in the order of the features.
        Returns:
            order, int32, shape (num_samples,): trainer t takes the samples order[share_ends[t]:share_ends[t + 1]]. They
            ascend.
        """
        assert len(share_ends) == self.num_trainers + 1  # homes are trainers of every batch
        keys, key_ends = self._by_sample.keys(ids, bags)
        entry_of_key = np.empty(len(keys), dtype=np.int32)
        entries = np.empty((len(keys), 3), dtype=np.int32)
        num_entries = _enter(self._num_entries, keys, self._buckets, entry_of_key, entries)
        trainers = _assign(entry_of_key, key_ends, entries[:num_entries], share_ends)
        _keep_homes(entries[:num_entries], self._buckets)
        self._num_entries += num_entries
        return _by_trainer(trainers, share_ends)

    def state(self) -> AssignerState:
        """Return what the assignment of later batches depends on."""
        used = np.flatnonzero(self._buckets)
        return AssignerState(self._num_entries, used, self._buckets[used])

    def restore(self, state: AssignerState) -> None:
        """Go on from the state of an assigner with the same numbers of trainers and buckets."""
        self._num_entries = state.num_entries
        self._buckets[:] = 0
        self._buckets[state.used] = state.homes


@compiled
def _enter(
    first_entry: int, keys: Int64Array, buckets: Int64Array, entry_of_key: Int32Array, entries: Int32Array
) -> int:
    """Number the entries of the batch, count their uses and look up their homes.

    Args:
        first_entry: Number of the first entry.
        keys: int64, shape (num_ids,).
        buckets: int64, shape (num_buckets,).
        entry_of_key: int32, shape (num_ids,): the entry of each id is written to it, counted from the first one.
        entries: int32, shape (num_ids, 3): BUCKET, HOME and COUNT of each entry are written to it.
    Returns:
        The number of entries.
    """
    mask = len(buckets) - 1
    forgotten = first_entry - len(buckets) // 2
    num_entries = 0
    for j in range(len(keys)):
        hint(buckets, keys[min(j + DISTANCE, len(keys) - 1)] & mask)
        bucket = keys[j] & mask
        latest = buckets[bucket] >> HOME_BITS
        if latest < first_entry:
            home = buckets[bucket] & HOME_MASK if latest >= forgotten else 0
            latest = first_entry + num_entries
            buckets[bucket] = latest << HOME_BITS | home
            entries[num_entries, BUCKET] = bucket
            entries[num_entries, HOME] = home
            entries[num_entries, COUNT] = 0
            num_entries += 1
        entry = latest - first_entry
        entries[entry, COUNT] += 1
        entry_of_key[j] = entry
    return num_entries


@compiled
def _assign(entry_of_key: Int32Array, key_ends: Int64Array, entries: Int32Array, share_ends: Int64Array) -> Int32Array:
    """Choose the trainer of each sample, and give a home to entries that have none.

    Returns:
        int32, shape (num_samples,).
    """
    num_samples, num_trainers = len(key_ends) - 1, len(share_ends) - 1
    one = np.uint64(1)
    # Whether trainer t has an entry: bit t % 64 of word t // 64.
    has = np.zeros((len(entries), (num_trainers + 63) // 64), dtype=np.uint64)
    for entry in range(len(entries)):
        home = entries[entry, HOME] - 1
        if home >= 0:
            has[entry, home >> 6] = one << np.uint64(home & 63)
    places_left = share_ends[1:] - share_ends[:-1]
    score = np.empty(num_trainers, dtype=np.int64)
    trainers = np.empty(num_samples, dtype=np.int32)
    for i in range(num_samples):
        score[:] = 1
        for entry in entry_of_key[key_ends[i] : key_ends[i + 1]]:
            weight = HOT * num_trainers - entries[entry, COUNT]
            if weight > 0:
                for word in range(has.shape[1]):
                    bits = has[entry, word]
                    while bits:
                        score[word * 64 + trailing_zeros(bits)] += weight  # type: ignore[call-arg]
                        bits &= bits - one
        best, highest = 0, 0
        for t in range(num_trainers):
            value = score[t] * places_left[t]
            if value > highest:
                best, highest = t, value
        trainers[i] = best
        places_left[best] -= 1
        for entry in entry_of_key[key_ends[i] : key_ends[i + 1]]:
            has[entry, best >> 6] |= one << np.uint64(best & 63)
            if entries[entry, HOME] == 0:
                entries[entry, HOME] = best + 1
    return trainers


@compiled
def _keep_homes(entries: Int32Array, buckets: Int64Array) -> None:
    """Write the homes of the batch's entries back to their buckets."""
    for entry in range(len(entries)):
        if entry + DISTANCE < len(entries):
            hint(buckets, entries[entry + DISTANCE, BUCKET])
        bucket = entries[entry, BUCKET]
        buckets[bucket] = buckets[bucket] & ~HOME_MASK | entries[entry, HOME]


@compiled
def _by_trainer(trainers: Int32Array, share_ends: Int64Array) -> Int32Array:
    """Return the numbers of the samples, trainer by trainer, within a trainer ascending, int32, shape (n,)."""
    order = np.empty(len(trainers), dtype=np.int32)
    next_place = share_ends[:-1].copy()
    for i in range(len(trainers)):
        order[next_place[trainers[i]]] = i
        next_place[trainers[i]] += 1
    return order
