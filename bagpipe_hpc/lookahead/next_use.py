"""The next-use pass (paper section 3.2): one look at every id of a batch as it enters the lookahead window.

State per key is one row of four int32 (16 bytes, one cache line touch):

    column LAST_USE   iteration of the latest use that entered the window; -1: never used
    column POSITION   the key's entry number within that iteration
    column SLOT       slot in the owner's cache; -1: not resident
    column OWNER      owner << 1 | dirty

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

LAST_USE, POSITION, SLOT, OWNER = 0, 1, 2, 3
NONE = -1


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
        self.next_use = np.empty(shape, dtype=np.int32)  # iteration of the next use; NONE: none within the window
        self.next_entry = np.empty(shape, dtype=np.int32)  # entry number there
        self.chain = np.empty(shape, dtype=np.int32)  # links of the (owner, next use) lists, see residency.py
        self.used_before = np.empty(shape, dtype=np.bool_)  # was the key used in the iteration just before?

    def grown(self, capacity: int) -> EntryRing:
        """The same entries with room for larger batches."""
        ring = EntryRing(self.ring_size, capacity)
        for name in ("keys", "next_use", "next_entry", "chain", "used_before"):
            getattr(ring, name)[:, : self.capacity] = getattr(self, name)
        return ring


@dataclass(frozen=True)
class EnteredBatch:
    """What the pass found in one batch.

    A *pair* is (trainer, unique key of its share), in order of first occurrence within the share.
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
    pair_entries = np.empty(len(keys), dtype=np.int32)
    pair_ends = np.zeros(len(id_ends), dtype=np.int64)
    id_pairs = np.empty(len(keys), dtype=np.int32)
    num_entries = _enter(
        iteration, window, keys, id_ends, key_state, ring.keys, ring.next_use, ring.next_entry, ring.used_before,
        pair_entries, pair_ends, id_pairs,
    )  # fmt: skip
    return EnteredBatch(num_entries, pair_entries[: pair_ends[-1]].copy(), pair_ends, id_pairs)


@njit(cache=True, nogil=True)
def _enter(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    n, window, keys, id_ends, key_state, ring_keys, ring_next_use, ring_next_entry, ring_used_before,
    pair_entries, pair_ends, id_pairs,
):  # fmt: skip
    ring_size = ring_keys.shape[0]
    row = n % ring_size
    seen_by = np.empty(len(keys), dtype=np.int32)  # per entry: the last trainer that met it
    pair_of = np.empty(len(keys), dtype=np.int32)  # per entry: its pair at that trainer
    num_ids = len(keys)
    num_entries = 0
    num_pairs = 0
    for trainer in range(len(id_ends) - 1):
        first_pair = num_pairs
        for j in range(id_ends[trainer], id_ends[trainer + 1]):
            if j + DISTANCE < num_ids:
                prefetch_row(key_state, keys[j + DISTANCE])
            key = keys[j]
            last = key_state[key, LAST_USE]
            if last == n:
                entry = key_state[key, POSITION]
            else:
                entry = num_entries
                num_entries += 1
                ring_keys[row, entry] = key
                ring_next_use[row, entry] = NONE
                ring_used_before[row, entry] = last >= 0 and last == n - 1
                if last >= 0 and n - last <= window:
                    previous = last % ring_size
                    ring_next_use[previous, key_state[key, POSITION]] = n
                    ring_next_entry[previous, key_state[key, POSITION]] = entry
                key_state[key, LAST_USE] = n
                key_state[key, POSITION] = entry
                seen_by[entry] = NONE
            if seen_by[entry] != trainer:
                seen_by[entry] = trainer
                pair_of[entry] = num_pairs - first_pair
                pair_entries[num_pairs] = entry
                num_pairs += 1
            id_pairs[j] = pair_of[entry]
        pair_ends[trainer + 1] = num_pairs
    return num_entries
