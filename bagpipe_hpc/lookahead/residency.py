"""Who holds which row, where: owners, slots, and exact farthest-next-use eviction (paper section 3.2; Belady 1966).

A row that stays resident leaves its slot and owner at the entry of its next use, so playing an iteration reads them in
entry order and keeps nothing per key. Resident rows are linked in lists, one per (owner, iteration of next use). The
victim is the head of the non-empty list with the farthest iteration: O(1) amortised, because the search for that list
only ever moves towards the present, except when a row with a farther next use is retained.

**One iteration of grace.** Trainers finish the delayed half of iteration i while they compute i + 1, and insert the
rows of i + 2 meanwhile. So a slot freed after i is given out from i + 2 on, and a row used in i is evicted in i + 2 at
the earliest, unless it leaves for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.lookahead.next_use import (
    CHAIN,
    CODE,
    DIRTY,
    LAST_PAIR,
    LATE,
    NONE,
    OWNER,
    SLOT,
    EnteredBatch,
    EntryRing,
)
from bagpipe_hpc.lookahead.plan import Int32Array, Int64Array, KeyArray


@dataclass(frozen=True)
class MovingRows:
    """Rows on their way between a trainer and a server: keys, owners int32, slots int32."""

    keys: KeyArray
    owners: Int32Array
    slots: Int32Array

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Placement:
    """Rows that come and go in one iteration. Of the evicted ones, all dirty, the first `num_forced` make room."""

    fetched: MovingRows
    evicted: MovingRows
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
        self.freed = np.empty((num_trainers, 0), dtype=np.int32)  # slots of the iteration just planned: free after next
        self.num_freed = np.zeros(num_trainers, dtype=np.int64)
        self.previous: tuple[int, Int64Array, Int64Array] | None = None  # planned last: number, where its entries stand
        self.num_issued = np.zeros(num_trainers, dtype=np.int64)  # slots ever used: 0 .. num_issued - 1
        # What a choice of owner balances: rows each trainer pushed in the iteration before, and will push of those
        # fetched in this one. Gradients come back for as many.
        self.num_pushed = np.zeros(num_trainers, dtype=np.int64)

    def place(
        self, iteration: int, read_only: bool, batch: EnteredBatch, id_ends: Int64Array, ring: EntryRing
    ) -> Placement:
        """Give every row of one iteration an owner and a slot, then let go of the rows that are not needed again.

        Afterwards the ring's rows of this iteration hold SLOT and CODE; CHAIN is free.

        Raises:
            CacheTooSmallError: the rows of the last and of the next P iterations exceed every trainer's `cache_rows`.
        """
        row = ring.row_of(iteration)
        entry_begins = id_ends[:, 0]
        size = int((batch.entry_ends - entry_begins).sum())
        fetched = _moving_rows(size, ring.keys.dtype)
        evicted = _moving_rows(
            2 * size, ring.keys.dtype
        )  # at most one forced eviction per fetch and one natural one per entry
        num_fetched, num_forced, num_unplaced = _admit(
            iteration, row, self.prefetch_depth, self.cache_rows, entry_begins, batch.entry_ends, batch.pair_ends,
            ring.keys, ring.rows, ring.pair_links[row],
            self.heads, self.farthest, self.free, self.num_free, self.num_issued, self.num_pushed,
            fetched.keys, fetched.owners, fetched.slots, evicted.keys, evicted.owners, evicted.slots,
        )  # fmt: skip
        if num_unplaced:
            raise self._too_small(iteration, size, num_unplaced)
        if self.previous is not None:
            previous, begins, ends = self.previous
            _let_evict(
                previous, ring.row_of(previous), begins, ends, ring.rows, ring.next_uses, self.heads, self.farthest
            )
        self.previous = iteration, entry_begins, batch.entry_ends
        self.heads[:, row] = NONE  # these rows are being used now
        self._free_again(size)
        num_evicted = _retain(
            iteration, row, read_only, entry_begins, batch.entry_ends, ring.keys[row], ring.rows, ring.next_uses[row],
            self.freed, self.num_freed, num_forced, evicted.keys, evicted.owners, evicted.slots,
        )  # fmt: skip
        return Placement(_first(fetched, num_fetched), _first(evicted, num_evicted), num_forced)

    def _free_again(self, num_entries: int) -> None:
        """Move the slots freed by the iteration before to the free stacks; make room for this one's."""
        needed = int((self.num_free + self.num_freed).max())
        if needed > self.free.shape[1]:
            grown = np.empty((len(self.free), max(needed, 2 * self.free.shape[1])), dtype=np.int32)
            grown[:, : self.free.shape[1]] = self.free
            self.free = grown
        for free, first, freed, count in zip(self.free, self.num_free, self.freed, self.num_freed, strict=True):
            free[first : first + count] = freed[:count]
        self.num_free += self.num_freed
        self.num_freed[:] = 0
        if num_entries > self.freed.shape[1]:
            self.freed = np.empty((len(self.free), num_entries), dtype=np.int32)

    def _too_small(self, iteration: int, num_entries: int, num_unplaced: int) -> CacheTooSmallError:
        num_trainers = len(self.free)
        limit = num_trainers * self.cache_rows
        return CacheTooSmallError(
            f"iteration {iteration} uses {num_entries:,} rows and {num_unplaced:,} of them find no slot: rows used "
            f"in the iteration before or within the next {self.prefetch_depth} may not be evicted, so at least "
            f"{limit + num_unplaced:,} slots are needed, but {num_trainers} trainers x cache.rows {self.cache_rows:,} "
            f"are {limit:,}; raise cache.rows, or lower lookahead.prefetch_depth, "
            "training.batch_size or evaluation.batch_size"
        )


def _moving_rows(size: int, key_dtype: np.dtype[Any]) -> MovingRows:
    return MovingRows(np.empty(size, dtype=key_dtype), np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32))


def _first(rows: MovingRows, count: int) -> MovingRows:
    return MovingRows(rows.keys[:count], rows.owners[:count], rows.slots[:count])


@compiled
def _victim(owner, nearest, heads, farthest):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Iteration whose list at `owner` has the row with the farthest next use, beyond `nearest`; NONE: no such row."""
    m = farthest[owner]
    while m > nearest and heads[owner, m % heads.shape[1]] == NONE:
        m -= 1
    farthest[owner] = m
    return m if m > nearest else NONE


@compiled
def _user_of(pair, pair_ends):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Trainer of a pair, by bisection in the ends of its table."""
    low, high = 0, len(pair_ends) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if pair < pair_ends[middle]:
            high = middle
        else:
            low = middle
    return low


@compiled
def _admit(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    i, row, prefetch_depth, cache_rows, entry_begins, entry_ends, pair_ends,
    ring_keys, ring_rows, pair_links, heads, farthest, free, num_free, num_issued, num_pushed,
    fetched_keys, fetched_owners, fetched_slots, evicted_keys, evicted_owners, evicted_slots,
):  # fmt: skip
    """Owner and slot for every row that is not resident. Returns (fetches, forced evictions, rows without a slot)."""
    num_trainers = len(num_issued)
    keys, rows = ring_keys[row], ring_rows[row]
    nearest = i + prefetch_depth
    num_fetched = 0
    num_forced = 0  # of dirty rows; clean ones just vanish
    num_unplaced = 0
    for table in range(len(entry_ends)):
        for entry in range(entry_begins[table], entry_ends[table]):
            if rows[entry, SLOT] != NONE:
                continue
            if num_unplaced > 0:
                num_unplaced += 1
                continue
            pair = rows[entry, LAST_PAIR]
            owner = _user_of(pair, pair_ends[table])
            pair = pair_links[pair]
            num_others = 0
            while pair != NONE:  # several users: the one that pushes least, of equals the one with the fewest rows
                user = _user_of(pair, pair_ends[table])
                if num_pushed[user] < num_pushed[owner] or (
                    num_pushed[user] == num_pushed[owner]
                    and num_issued[user] - num_free[user] <= num_issued[owner] - num_free[owner]
                ):
                    owner = user
                num_others += 1
                pair = pair_links[pair]
            num_pushed[owner] += num_others
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
                        num_unplaced = 1
                        continue
            if victim_use != NONE:
                use_row = victim_use % heads.shape[1]
                victim = heads[owner, use_row]
                heads[owner, use_row] = ring_rows[use_row, victim, CHAIN]
                slot = ring_rows[use_row, victim, SLOT]
                if ring_rows[use_row, victim, OWNER] & DIRTY:
                    evicted_keys[num_forced] = ring_keys[use_row, victim]
                    evicted_owners[num_forced] = owner
                    evicted_slots[num_forced] = slot
                    num_forced += 1
                ring_rows[use_row, victim, SLOT] = NONE
            elif num_free[owner] > 0:
                num_free[owner] -= 1
                slot = free[owner, num_free[owner]]
            else:
                slot = np.int32(num_issued[owner])
                num_issued[owner] += 1
            rows[entry, SLOT] = slot
            rows[entry, OWNER] = owner << 2
            fetched_keys[num_fetched] = keys[entry]
            fetched_owners[num_fetched] = owner
            fetched_slots[num_fetched] = slot
            num_fetched += 1
    return num_fetched, num_forced, num_unplaced


@compiled
def _let_evict(i, row, entry_begins, entry_ends, ring_rows, next_uses, heads, farthest):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Rows of iteration i that stay beyond i + 1 may be evicted from now on: link them."""
    ring_size = heads.shape[1]
    for table in range(len(entry_ends)):
        for entry in range(entry_begins[table], entry_ends[table]):
            use = next_uses[row, entry, 0]
            if use == NONE or use == i + 1:
                continue
            use_row = row + (use - i)
            if use_row >= ring_size:
                use_row -= ring_size
            owner = ring_rows[row, entry, CODE] >> 2
            next_entry = next_uses[row, entry, 1]
            ring_rows[use_row, next_entry, CHAIN] = heads[owner, use_row]
            heads[owner, use_row] = next_entry
            if use > farthest[owner]:
                farthest[owner] = use


@compiled
def _retain(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    i, row, read_only, entry_begins, entry_ends, keys, ring_rows, next_uses,
    freed, num_freed, num_evicted, evicted_keys, evicted_owners, evicted_slots,
):  # fmt: skip
    """After the iteration: rows with a next use stay, the others leave. Returns the number of evicted dirty rows."""
    ring_size = len(ring_rows)
    updated = 0 if read_only else DIRTY
    for table in range(len(entry_ends)):
        for entry in range(entry_begins[table], entry_ends[table]):
            slot = ring_rows[row, entry, SLOT]
            state = ring_rows[row, entry, OWNER]
            owner = state >> 2
            dirty = (state & DIRTY) | updated
            use = next_uses[entry, 0]
            # Gray order of (pushed late, gradient needed early): 0 1 3 2.
            late, early = (state & LATE) >> 1, np.int32(use == i + 1)
            ring_rows[row, entry, CODE] = owner << 2 | late << 1 | (late ^ early)
            if use != NONE:
                use_row = row + (use - i)
                if use_row >= ring_size:
                    use_row -= ring_size
                next_entry = next_uses[entry, 1]
                ring_rows[use_row, next_entry, SLOT] = slot
                ring_rows[use_row, next_entry, OWNER] = owner << 2 | (early & updated) << 1 | dirty
                continue
            if dirty:
                evicted_keys[num_evicted] = keys[entry]
                evicted_owners[num_evicted] = owner
                evicted_slots[num_evicted] = slot
                num_evicted += 1
            freed[owner, num_freed[owner]] = slot
            num_freed[owner] += 1
    return num_evicted
