"""The next-use pass (paper section 3.2): one look at every id of a batch as it enters the lookahead window.

State per key is one row of four int32 (16 bytes, one cache line touch):

    column STAMP      iteration * T + trainer of the latest use that entered the window; -1: never used
    column PAIR       number of that (trainer, key) pair within its iteration
    column SLOT       slot in the owner's cache; -1: not resident
    column OWNER      owner << 1 | dirty

A *pair* is a trainer and a unique key of its share. Most ids repeat a key of their own share: for them the stamp is the
current one, and the state's own line is all that is touched.

Per iteration in the window, one row of the ring arrays (row = iteration % ring_size) holds its *entries*, the unique
keys in order of first occurrence. No sorting, no sets: O(ids), each id touching its key's state once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bagpipe_hpc.lookahead.prefetch import DISTANCE, prefetch_row

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

STAMP, PAIR, SLOT, OWNER = 0, 1, 2, 3
NONE = -1
MAX_STAMP = 2**31 - 1


def new_key_state(num_keys: int) -> Int32Array:
    """State of every key: never used, not resident; int32, shape (num_keys, 4)."""
    return np.full((num_keys, 4), NONE, dtype=np.int32)


@dataclass
class EntryRing:
    """Entries of the iterations in the window, one row per iteration.

    Args:
        ring_size: Rows; at least L + 1.
        capacity: Entries a row can hold: the ids of the largest batch so far.
    """

    ring_size: int
    capacity: int

    def __post_init__(self) -> None:
        shape = (self.ring_size, self.capacity)
        # Pages of the unused tail of each row are never touched, so they cost no memory.
        self.keys = np.empty(shape, dtype=np.int64)
        # Per pair, so that a later use finds it without a look at the entry: iteration of the key's next use (NONE:
        # none within the window) and its entry number there. Only the last pair of an entry is ever told.
        self.next_uses = np.empty((*shape, 2), dtype=np.int32)
        self.last_pair = np.empty(shape, dtype=np.int32)  # of each entry
        self.chain = np.empty(shape, dtype=np.int32)  # links of the (owner, next use) lists, see residency.py
        self.pair_entries = np.empty(shape, dtype=np.int32)  # entry of each pair, trainer by trainer
        self.first_user = np.empty(
            shape, dtype=np.int32
        )  # lowest trainer that uses the entry; ~trainer: one of several
        self.used_before = np.empty(shape, dtype=np.bool_)  # was the key used in the iteration just before?

    def grown(self, capacity: int) -> EntryRing:
        """The same entries with room for larger batches."""
        ring = EntryRing(self.ring_size, capacity)
        for name in ("keys", "next_uses", "last_pair", "chain", "pair_entries", "first_user", "used_before"):
            getattr(ring, name)[:, : self.capacity] = getattr(self, name)
        return ring

    def next_uses_of(self, iteration: int, num_entries: int) -> Int32Array:
        """Next use of each entry: (iteration or NONE, entry number there); int32, shape (num_entries, 2)."""
        row = iteration % self.ring_size
        next_uses: Int32Array = self.next_uses[row].take(self.last_pair[row, :num_entries], axis=0)
        return next_uses


@dataclass(frozen=True)
class EnteredBatch:
    """What the pass found in one batch.

    Pairs stand in order of first occurrence within their trainer's share.
    """

    num_entries: int
    pair_entries: Int32Array  # (num_pairs,) entry of each pair, trainer by trainer
    pair_ends: Int64Array  # (T + 1,) where each trainer's pairs begin and end
    id_pairs: Int32Array  # (num_ids,) pair of each id, counted from its trainer's first


def enter_batch(
    iteration: int, window: int, keys: Int64Array, id_ends: Int64Array, key_state: Int32Array, ring: EntryRing
) -> EnteredBatch:
    """Let the batch of one iteration enter the window.

    Args:
        iteration: n; batches enter in order.
        window: L.
        keys: int64, shape (num_ids,), sample by sample; not checked.
        id_ends: int64, shape (T + 1,): the ids of trainer t's share are keys[id_ends[t]:id_ends[t + 1]].
    """
    pair_ends = np.zeros(len(id_ends), dtype=np.int64)
    id_pairs = np.empty(len(keys), dtype=np.int32)
    num_entries = _enter(
        iteration, window, keys, id_ends, key_state, ring.keys, ring.next_uses, ring.last_pair, ring.used_before,
        ring.pair_entries, ring.first_user, pair_ends, id_pairs,
    )  # fmt: skip
    return EnteredBatch(
        num_entries, ring.pair_entries[iteration % ring.ring_size, : pair_ends[-1]], pair_ends, id_pairs
    )


@njit(cache=True, nogil=True)
def _enter(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    n, window, keys, id_ends, key_state, ring_keys, ring_next_uses, ring_last_pair, ring_used_before,
    ring_pair_entries, ring_first_user, pair_ends, id_pairs,
):  # fmt: skip
    ring_size = ring_keys.shape[0]
    row = n % ring_size
    num_ids = len(keys)
    num_trainers = len(id_ends) - 1
    first_stamp = n * num_trainers
    num_entries = 0
    num_pairs = 0
    for trainer in range(num_trainers):
        stamp = first_stamp + trainer
        first_pair = num_pairs
        for j in range(id_ends[trainer], id_ends[trainer + 1]):
            if j + DISTANCE < num_ids:
                prefetch_row(key_state, keys[j + DISTANCE])
            key = keys[j]
            last = key_state[key, STAMP]
            if last == stamp:
                id_pairs[j] = key_state[key, PAIR] - first_pair
                continue
            if last >= first_stamp:  # met in the share of an earlier trainer
                entry = ring_pair_entries[row, key_state[key, PAIR]]
                if ring_first_user[row, entry] >= 0:
                    ring_first_user[row, entry] = ~ring_first_user[row, entry]
            else:
                entry = num_entries
                num_entries += 1
                ring_keys[row, entry] = key
                ring_first_user[row, entry] = trainer
                ring_used_before[row, entry] = last >= 0 and last >= first_stamp - num_trainers
                if last >= 0 and last >= first_stamp - window * num_trainers:
                    previous = (last // num_trainers) % ring_size
                    ring_next_uses[previous, key_state[key, PAIR], 0] = n
                    ring_next_uses[previous, key_state[key, PAIR], 1] = entry
            key_state[key, STAMP] = stamp
            key_state[key, PAIR] = num_pairs
            ring_pair_entries[row, num_pairs] = entry
            ring_last_pair[row, entry] = num_pairs
            ring_next_uses[row, num_pairs, 0] = NONE
            id_pairs[j] = num_pairs - first_pair
            num_pairs += 1
        pair_ends[trainer + 1] = num_pairs
    return num_entries
