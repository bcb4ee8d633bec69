"""Who holds which row, where: owners, slots, and exact farthest-next-use eviction (paper section 3.2; Belady 1966).

Resident rows are kept in lists, one per (owner, iteration of next use), linked through the entries of that iteration.
The victim is the head of the non-empty list with the farthest iteration: O(1) amortised, because the search for that
list only ever moves towards the present, except when a row with a farther next use is retained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.lookahead.next_use import NONE, OWNER, SLOT, EnteredBatch, EntryRing
from bagpipe_hpc.lookahead.prefetch import DISTANCE, prefetch_row

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LISTED = -2  # end of a linked list of users


@dataclass(frozen=True)
class Placement:
    """Where the rows of one iteration stand, and which rows leave in it.

    Per entry of the iteration: `owner`, `slot` (int32), `fetched` (bool). Evictions (forced ones first) of dirty rows:
    `evicted_keys` int64, `evicted_owners`, `evicted_slots` int32, and how many were forced.
    """

    owner: Int32Array
    slot: Int32Array
    fetched: BoolArray
    evicted_keys: Int64Array
    evicted_owners: Int32Array
    evicted_slots: Int32Array
    num_forced: int


class Residency:
    """The caches of all trainers, as the oracle sees them.

    Args:
        num_trainers: T.
        cache_rows: Slots per trainer.
        prefetch_depth: P; a row whose next use is at most P iterations away is never evicted.
        ring_size: Rows of the entry ring.
    """

    def __init__(self, num_trainers: int, cache_rows: int, prefetch_depth: int, ring_size: int) -> None:
        self.cache_rows = cache_rows
        self.prefetch_depth = prefetch_depth
        self.heads = np.full((num_trainers, ring_size), NONE, dtype=np.int32)  # entry of the row retained last
        self.farthest = np.zeros(num_trainers, dtype=np.int64)  # no list beyond this iteration has a row
        self.free = np.empty((num_trainers, 64), dtype=np.int32)  # stacks of slots that were used before
        self.num_free = np.zeros(num_trainers, dtype=np.int64)
        self.num_issued = np.zeros(num_trainers, dtype=np.int64)  # slots ever used: 0 .. num_issued - 1

    def place(
        self,
        iteration: int,
        read_only: bool,
        batch: EnteredBatch,
        next_uses: Int32Array,
        key_state: Int32Array,
        ring: EntryRing,
    ) -> Placement:
        """Give every row of one iteration an owner and a slot, then let go of the rows that are not needed again.

        Raises:
            CacheTooSmallError: the rows of the next P iterations alone exceed every trainer's `cache_rows`.
        """
        size = batch.num_entries
        owner, slot = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
        fetched = np.empty(size, dtype=np.bool_)
        # At most one forced eviction per fetch and one natural one per entry.
        evicted_keys = np.empty(2 * size, dtype=np.int64)
        evicted_owners, evicted_slots = np.empty(2 * size, dtype=np.int32), np.empty(2 * size, dtype=np.int32)
        self._make_room_in_free_stacks(size)
        stuck, num_forced = _admit(
            iteration, self.prefetch_depth, self.cache_rows, size, batch.pair_entries, batch.pair_ends, key_state,
            ring.keys, ring.chain, ring.first_user,
            self.heads, self.farthest, self.free, self.num_free, self.num_issued,
            owner, slot, fetched, evicted_keys, evicted_owners, evicted_slots,
        )  # fmt: skip
        if stuck >= 0:
            raise self._too_small(iteration, size, stuck)
        num_evicted = _retain(
            iteration, read_only, size, next_uses, key_state, ring.keys, ring.chain,
            self.heads, self.farthest, self.free, self.num_free,
            owner, slot, num_forced, evicted_keys, evicted_owners, evicted_slots,
        )  # fmt: skip
        return Placement(
            owner, slot, fetched,
            evicted_keys[:num_evicted], evicted_owners[:num_evicted], evicted_slots[:num_evicted], num_forced,
        )  # fmt: skip

    def _make_room_in_free_stacks(self, num_entries: int) -> None:
        needed = int(min(self.num_free.max() + num_entries, self.cache_rows))
        if needed > self.free.shape[1]:
            grown = np.empty((len(self.free), max(needed, 2 * self.free.shape[1])), dtype=np.int32)
            grown[:, : self.free.shape[1]] = self.free
            self.free = grown

    def _too_small(self, iteration: int, num_entries: int, num_unplaced: int) -> CacheTooSmallError:
        num_trainers = len(self.free)
        limit = num_trainers * self.cache_rows
        return CacheTooSmallError(
            f"iteration {iteration} uses {num_entries:,} rows and {num_unplaced:,} of them find no slot: rows used "
            f"within the next {self.prefetch_depth} iterations may not be evicted, so at least "
            f"{limit + num_unplaced:,} slots are needed, but {num_trainers} trainers x cache.rows {self.cache_rows:,} "
            f"are {limit:,}; raise cache.rows, or lower lookahead.prefetch_depth, "
            "training.batch_size or evaluation.batch_size"
        )


@njit(cache=True, nogil=True)
def _victim(owner, nearest, heads, farthest):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Iteration whose list at `owner` has the row with the farthest next use, beyond `nearest`; NONE: no such row."""
    m = farthest[owner]
    while m > nearest and heads[owner, m % heads.shape[1]] == NONE:
        m -= 1
    farthest[owner] = m
    return m if m > nearest else NONE


@njit(cache=True, nogil=True)
def _users_of_shared_fetches(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    num_entries, pair_entries, pair_ends, key_state, keys, first_user
):
    """Users of the rows about to be fetched for several trainers: a linked list per entry, highest trainer first."""
    head = np.full(num_entries, NONE, dtype=np.int32)
    for entry in range(num_entries):
        if entry + DISTANCE < num_entries:
            prefetch_row(key_state, keys[entry + DISTANCE])
        if first_user[entry] < 0 and key_state[keys[entry], SLOT] == NONE:
            head[entry] = LISTED
    link = np.empty(len(pair_entries), dtype=np.int32)
    user = np.empty(len(pair_entries), dtype=np.int32)
    for t in range(len(pair_ends) - 1):
        for p in range(pair_ends[t], pair_ends[t + 1]):
            entry = pair_entries[p]
            if head[entry] != NONE:
                link[p] = head[entry]
                user[p] = t
                head[entry] = p
    return head, link, user


@njit(cache=True, nogil=True)
def _admit(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    i, prefetch_depth, cache_rows, num_entries, pair_entries, pair_ends, key_state,
    ring_keys, ring_chain, ring_first_user, heads, farthest, free, num_free, num_issued,
    owner_out, slot_out, fetched_out, evicted_keys, evicted_owners, evicted_slots,
):  # fmt: skip
    """Owner and slot for every row that is not resident. Returns (rows without a slot or NONE, forced evictions)."""
    num_trainers = len(pair_ends) - 1
    keys = ring_keys[i % ring_keys.shape[0]]
    first_user = ring_first_user[i % ring_keys.shape[0]]
    head, link, user = _users_of_shared_fetches(num_entries, pair_entries, pair_ends, key_state, keys, first_user)
    nearest = i + prefetch_depth
    num_forced = 0  # of dirty rows; clean ones just vanish
    for entry in range(num_entries):
        if entry + DISTANCE < num_entries:
            prefetch_row(key_state, keys[entry + DISTANCE])
        key = keys[entry]
        fetched_out[entry] = key_state[key, SLOT] == NONE
        if key_state[key, SLOT] != NONE:
            owner_out[entry] = key_state[key, OWNER] >> 1
            slot_out[entry] = key_state[key, SLOT]
            continue
        owner = first_user[entry]
        if owner < 0:  # several users: the one with the fewest rows, the lowest of equals
            p = head[entry]
            owner = user[p]
            while p != LISTED:
                t = user[p]
                if num_issued[t] - num_free[t] <= num_issued[owner] - num_free[owner]:
                    owner = t
                p = link[p]
        victim_use = NONE
        if num_free[owner] == 0 and num_issued[owner] == cache_rows:
            victim_use = _victim(owner, nearest, heads, farthest)
            if victim_use == NONE:  # the chosen owner is full of rows that are needed soon: anybody who has room
                owner = NONE
                for t in range(num_trainers):
                    load = num_issued[t] - num_free[t]
                    if owner != NONE and load >= num_issued[owner] - num_free[owner]:
                        continue
                    use = NONE
                    if load == cache_rows:
                        use = _victim(t, nearest, heads, farthest)
                    if load < cache_rows or use != NONE:
                        owner = t
                        victim_use = use
                if owner == NONE:
                    unplaced = 0
                    for rest in range(entry, num_entries):
                        if key_state[keys[rest], SLOT] == NONE:
                            unplaced += 1
                    return unplaced, num_forced
        if victim_use != NONE:
            row = victim_use % heads.shape[1]
            victim_entry = heads[owner, row]
            heads[owner, row] = ring_chain[row, victim_entry]
            victim_key = ring_keys[row, victim_entry]
            slot = key_state[victim_key, SLOT]
            if key_state[victim_key, OWNER] & 1:
                evicted_keys[num_forced] = victim_key
                evicted_owners[num_forced] = owner
                evicted_slots[num_forced] = slot
                num_forced += 1
            key_state[victim_key, SLOT] = NONE
        elif num_free[owner] > 0:
            num_free[owner] -= 1
            slot = free[owner, num_free[owner]]
        else:
            slot = num_issued[owner]
            num_issued[owner] += 1
        key_state[key, SLOT] = slot
        key_state[key, OWNER] = owner << 1
        owner_out[entry] = owner
        slot_out[entry] = slot
    return NONE, num_forced


@njit(cache=True, nogil=True)
def _retain(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    i, read_only, num_entries, next_uses, key_state, ring_keys, ring_chain,
    heads, farthest, free, num_free, owner_in, slot_in, num_evicted, evicted_keys, evicted_owners, evicted_slots,
):  # fmt: skip
    """After the iteration: rows with a next use stay, the others leave. Returns the number of evicted dirty rows."""
    row = i % ring_keys.shape[0]
    for t in range(heads.shape[0]):
        heads[t, row] = NONE  # these rows are being used now
    for entry in range(num_entries):
        if entry + DISTANCE < num_entries:
            prefetch_row(key_state, ring_keys[row, entry + DISTANCE])
        key = ring_keys[row, entry]
        owner = owner_in[entry]
        if not read_only:
            key_state[key, OWNER] |= 1
        use = next_uses[entry, 0]
        if use != NONE:
            use_row = use % ring_keys.shape[0]
            next_entry = next_uses[entry, 1]
            ring_chain[use_row, next_entry] = heads[owner, use_row]
            heads[owner, use_row] = next_entry
            farthest[owner] = max(farthest[owner], use)
            continue
        if key_state[key, OWNER] & 1:
            evicted_keys[num_evicted] = key
            evicted_owners[num_evicted] = owner
            evicted_slots[num_evicted] = slot_in[entry]
            num_evicted += 1
        key_state[key, SLOT] = NONE
        free[owner, num_free[owner]] = slot_in[entry]
        num_free[owner] += 1
    return num_evicted
