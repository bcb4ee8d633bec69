"""The caches of all trainers: owners, slots and exact farthest-next-use eviction (paper section 3.2; Belady 1966).

A row that stays resident leaves its slot and owner at the entry of its next use. So planning an iteration reads them in
the order of the entries, and the oracle keeps no slot or owner per key. Resident rows are linked in lists, one per
owner and iteration of next use. The row to evict is the head of the non-empty list with the farthest iteration. Finding
it costs O(1) amortised, because the search for that list moves towards the present only, except when a row with a
farther next use joins a list.

**One iteration of grace.** Trainers finish the delayed half of iteration i while they compute i + 1, and insert the
rows of i + 2 meanwhile. So a slot that is freed after i is given out from i + 2 on, and a row that is used in i is
evicted in i + 2 at the earliest, unless it has no next use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.lookahead.next_use import (
    CHAIN,
    DIRTY,
    LAST_PAIR,
    LATE,
    NONE,
    OWNER,
    SLOT,
    EnteredBatch,
    EntryRing,
)
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array, KeyArray


class MovingRows(NamedTuple):
    """The n rows that travel between trainers and servers in one iteration and one direction.

    Args:
        keys: int32 or int64, shape (n,).
        owners: int32, shape (n,): the trainer that owns each row.
        slots: int32, shape (n,): slot of each row in the owner's cache.
    """

    keys: KeyArray
    owners: Int32Array
    slots: Int32Array

    @classmethod
    def empty(cls, size: int, key_dtype: np.dtype[Any]) -> MovingRows:
        """Return room for `size` rows."""
        return cls(np.empty(size, key_dtype), np.empty(size, np.int32), np.empty(size, np.int32))

    def first(self, count: int) -> MovingRows:
        """Return the first `count` rows."""
        return MovingRows(self.keys[:count], self.owners[:count], self.slots[:count])


class Moves(NamedTuple):
    """The rows that enter and leave the caches in one iteration.

    Args:
        fetched: Rows that trainers fetch from servers.
        born: Rows that begin anew, so trainers make them, in the order of `EnteredBatch.born`.
        evicted: Dirty rows that trainers send back.
        num_forced: The first `num_forced` evicted rows leave to make room for the fetched ones.
    """

    fetched: MovingRows
    born: MovingRows
    evicted: MovingRows
    num_forced: int


class Caches(NamedTuple):
    """The state of all caches, for compiled functions.

    Args:
        heads: int32, shape (T, ring_size): heads of the lists of resident rows, one list per owner and iteration of
            next use (a row of the entry ring). A head is the entry of the row that joined the list last; NONE: the list
            is empty.
        joining_heads: int32, shape (T, ring_size): heads of lists of the rows that stay after the iteration planned
            last. They join the lists above when all rows of the next iteration have their slots.
        joining_tails: int32, shape (T, ring_size): the last entry of each of these lists, if there is one.
        farthest: int64, shape (T,): all lists of an owner beyond this iteration are empty.
        num_free: int64, shape (T,): number of slots on the owner's stack of free slots.
        num_freed: int64, shape (T,): number of slots that were freed by the iteration planned last.
        num_issued: int64, shape (T,): slots 0 .. num_issued - 1 have been used at some time.
        num_pushed: int64, shape (T,): number of rows that each trainer pushes: all of the iteration before, and those
            among the rows fetched so far in this one. The choice of owners balances these numbers. As many gradients
            come back.
    """

    heads: Int32Array
    joining_heads: Int32Array
    joining_tails: Int32Array
    farthest: Int64Array
    num_free: Int64Array
    num_freed: Int64Array
    num_issued: Int64Array
    num_pushed: Int64Array

    @classmethod
    def empty(cls, num_trainers: int, ring_size: int) -> Caches:
        """Return caches that hold nothing."""
        counts = np.zeros((5, num_trainers), dtype=np.int64)
        heads = np.full((3, num_trainers, ring_size), NONE, dtype=np.int32)
        return cls(*heads, *counts)


class CacheModel:
    """The caches of all trainers, as the oracle plans them.

    Args:
        num_trainers: T.
        cache_rows: Number of slots per trainer.
        prefetch_depth: P. A row whose next use is at most P iterations away is never forced out.
        ring_size: Number of iterations that the entry ring holds.
    """

    def __init__(self, num_trainers: int, cache_rows: int, prefetch_depth: int, ring_size: int) -> None:
        self.cache_rows = cache_rows
        self.prefetch_depth = prefetch_depth
        self.caches = Caches.empty(num_trainers, ring_size)
        self.free = np.empty((num_trainers, 64), dtype=np.int32)  # stacks of free slots that were used before
        # Slots that were freed by the iteration planned last. They are given out from the iteration after the next on.
        self.freed = np.empty((num_trainers, 0), dtype=np.int32)
        self.previous: tuple[int, EnteredBatch] | None = None  # the iteration planned last, and its batch

    def plan_moves(self, iteration: int, read_only: bool, batch: EnteredBatch, ring: EntryRing) -> Moves:
        """Give every row of one iteration an owner and a slot, then evict the rows that have no next use.

        Afterwards the ring has SLOT and OWNER of every entry of this iteration.

        Args:
            iteration: Its number. Iterations are planned in order.
            read_only: Whether the iteration updates no row.
            batch: Its entries and pairs.
            ring: The iterations of the lookahead window.
        Raises:
            CacheTooSmallError: the rows of the last and of the next P iterations exceed every trainer's `cache_rows`.
        """
        size = batch.num_entries
        fetched = MovingRows.empty(size, ring.keys.dtype)
        born = MovingRows.empty(len(batch.born), ring.keys.dtype)
        # At most one forced eviction per fetch, and one other eviction per entry.
        evicted = MovingRows.empty(2 * size, ring.keys.dtype)
        nearest = iteration + self.prefetch_depth
        num_fetched, num_forced, num_without_slot = _admit(
            ring.row_of(iteration),
            nearest,
            self.cache_rows,
            batch,
            ring,
            self.caches,
            self.free,
            fetched,
            born,
            evicted,
        )
        if num_without_slot:
            raise self._too_small(iteration, size, num_without_slot)
        if self.previous is not None:
            _join_lists(self.previous[0], ring, self.caches)
        self.previous = iteration, batch
        self.caches.heads[:, ring.row_of(iteration)] = NONE  # these rows are in use now
        self._free_again(size)
        num_evicted = _retain(iteration, read_only, batch, ring, self.caches, self.freed, num_forced, evicted)
        return Moves(fetched.first(num_fetched), born, evicted.first(num_evicted), num_forced)

    def reserve_free(self, num_slots: int) -> None:
        """Make room for `num_slots` slots on each stack of free slots."""
        if num_slots > self.free.shape[1]:
            grown = np.empty((len(self.free), max(num_slots, 2 * self.free.shape[1])), dtype=np.int32)
            grown[:, : self.free.shape[1]] = self.free
            self.free = grown

    def _free_again(self, num_entries: int) -> None:
        """Move the slots that the iteration before freed to the free stacks, and make room for those of this one."""
        num_free, num_freed = self.caches.num_free, self.caches.num_freed
        self.reserve_free(int((num_free + num_freed).max()))
        for free, first, freed, count in zip(self.free, num_free, self.freed, num_freed, strict=True):
            free[first : first + count] = freed[:count]
        num_free += num_freed
        num_freed[:] = 0
        if num_entries > self.freed.shape[1]:
            self.freed = np.empty((len(self.free), num_entries), dtype=np.int32)

    def _too_small(self, iteration: int, num_entries: int, num_without_slot: int) -> CacheTooSmallError:
        num_trainers = len(self.free)
        limit = num_trainers * self.cache_rows
        return CacheTooSmallError(
            f"iteration {iteration} uses {num_entries:,} rows and {num_without_slot:,} of them find no slot: rows used "
            f"in the iteration before or within the next {self.prefetch_depth} may not be evicted, so at least "
            f"{limit + num_without_slot:,} slots are needed, but {num_trainers} trainers x cache.rows "
            f"{self.cache_rows:,} are {limit:,}; raise cache.rows, or lower lookahead.prefetch_depth, "
            "training.batch_size or evaluation.batch_size"
        )


@compiled
def _victim(owner: int, nearest: int, caches: Caches) -> int:
    """Return the farthest iteration beyond `nearest` with a non-empty list at `owner`; NONE if there is none."""
    heads = caches.heads
    m = caches.farthest[owner]
    while m > nearest and heads[owner, m % heads.shape[1]] == NONE:
        m -= 1
    caches.farthest[owner] = m
    return m if m > nearest else NONE


@compiled
def _user_of(pair: int, pair_ends: Int64Array) -> int:
    """Return the trainer of a pair, by bisection in the ends of its table, int64, shape (T + 1,)."""
    low, high = 0, len(pair_ends) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if pair < pair_ends[middle]:
            high = middle
        else:
            low = middle
    return low


@compiled
def _owner_among_users(last_pair: int, pair_links: Int32Array, pair_ends: Int64Array, caches: Caches) -> int:
    """Choose the owner of a fetched row among its users, and count its pushes.

    The owner is the user that pushes the fewest rows so far; among equals, the one with the fewest slots in use.
    """
    num_pushed, num_issued, num_free = caches.num_pushed, caches.num_issued, caches.num_free
    owner = _user_of(last_pair, pair_ends)
    pair = pair_links[last_pair]
    num_others = 0
    while pair != NONE:
        user = _user_of(pair, pair_ends)
        if num_pushed[user] < num_pushed[owner] or (
            num_pushed[user] == num_pushed[owner]
            and num_issued[user] - num_free[user] <= num_issued[owner] - num_free[owner]
        ):
            owner = user
        num_others += 1
        pair = pair_links[pair]
    num_pushed[owner] += num_others
    return owner


@compiled
def _any_with_room(nearest: int, cache_rows: int, caches: Caches) -> tuple[int, int]:
    """Find the trainer with the fewest slots in use among those that have a free slot or a row to evict.

    Returns:
        The trainer, or NONE, and the iteration of the next use of the row to evict, or NONE if there is a free slot.
    """
    owner = victim_use = NONE
    for t in range(len(caches.num_issued)):
        load = caches.num_issued[t] - caches.num_free[t]
        if owner != NONE and load >= caches.num_issued[owner] - caches.num_free[owner]:
            continue
        use = NONE
        if load == cache_rows:
            use = _victim(t, nearest, caches)
        if load < cache_rows or use != NONE:
            owner = t
            victim_use = use
    return owner, victim_use


@compiled
def _admit(
    row: int,
    nearest: int,
    cache_rows: int,
    batch: EnteredBatch,
    ring: EntryRing,
    caches: Caches,
    free: Int32Array,
    fetched: MovingRows,
    born: MovingRows,
    evicted: MovingRows,
) -> tuple[int, int, int]:
    """Give an owner and a slot to every row that is not resident.

    All rows that begin anew are among them. They are not fetched.

    Returns:
        The number of fetched rows, the number of dirty rows that were evicted for them (clean ones need no write-back),
        and the number of rows that found no slot.
    """
    heads, num_free, num_issued = caches.heads, caches.num_free, caches.num_issued
    keys, entries, pair_links = ring.keys[row], ring.entries[row], ring.pair_links[row]
    ring_keys, ring_entries = ring.keys, ring.entries
    num_fetched = num_forced = num_without_slot = num_born = 0
    for table in range(len(batch.entry_ends)):
        pair_ends = batch.pair_ends[table]
        for entry in range(batch.entry_begins[table], batch.entry_ends[table]):
            if entries[entry, SLOT] != NONE:
                continue
            if num_without_slot > 0:
                num_without_slot += 1
                continue
            owner = _owner_among_users(entries[entry, LAST_PAIR], pair_links, pair_ends, caches)
            victim_use = NONE
            if num_free[owner] == 0 and num_issued[owner] == cache_rows:
                victim_use = _victim(owner, nearest, caches)
                if victim_use == NONE:  # the chosen owner is full of rows that are needed soon
                    owner, victim_use = _any_with_room(nearest, cache_rows, caches)
                    if owner == NONE:
                        num_without_slot = 1
                        continue
            if victim_use != NONE:
                use_row = victim_use % heads.shape[1]
                victim = heads[owner, use_row]
                heads[owner, use_row] = ring_entries[use_row, victim, CHAIN]
                slot = ring_entries[use_row, victim, SLOT]
                if ring_entries[use_row, victim, OWNER] & DIRTY:
                    evicted.keys[num_forced] = ring_keys[use_row, victim]
                    evicted.owners[num_forced] = owner
                    evicted.slots[num_forced] = slot
                    num_forced += 1
                ring_entries[use_row, victim, SLOT] = NONE
            elif num_free[owner] > 0:
                num_free[owner] -= 1
                slot = free[owner, num_free[owner]]
            else:
                slot = np.int32(num_issued[owner])
                num_issued[owner] += 1
            entries[entry, SLOT] = slot
            entries[entry, OWNER] = owner << 2
            if num_born < len(batch.born) and batch.born[num_born] == entry:
                born.keys[num_born] = keys[entry]
                born.owners[num_born] = owner
                born.slots[num_born] = slot
                num_born += 1
                continue
            fetched.keys[num_fetched] = keys[entry]
            fetched.owners[num_fetched] = owner
            fetched.slots[num_fetched] = slot
            num_fetched += 1
    return num_fetched, num_forced, num_without_slot


@compiled
def _join_lists(i: int, ring: EntryRing, caches: Caches) -> None:
    """Let the rows that stay after iteration i join the lists, so that they may be evicted from now on."""
    heads, farthest = caches.heads, caches.farthest
    joining_heads, joining_tails = caches.joining_heads, caches.joining_tails
    for owner in range(heads.shape[0]):
        for use in range(i + 2, i + heads.shape[1]):
            use_row = use % heads.shape[1]
            if joining_heads[owner, use_row] == NONE:
                continue
            ring.entries[use_row, joining_tails[owner, use_row], CHAIN] = heads[owner, use_row]
            heads[owner, use_row] = joining_heads[owner, use_row]
            joining_heads[owner, use_row] = NONE
            farthest[owner] = max(farthest[owner], use)


@compiled
def _retain(
    i: int,
    read_only: bool,
    batch: EnteredBatch,
    ring: EntryRing,
    caches: Caches,
    freed: Int32Array,
    num_evicted: int,
    evicted: MovingRows,
) -> int:
    """Hand the rows of iteration i on to the entries of their next uses, and evict those that have none.

    Args:
        freed: int32, shape (T, n): the freed slots are written to it.
        num_evicted: Number of dirty rows in `evicted` so far.
    Returns:
        The number of dirty rows in `evicted` afterwards.
    """
    row = i % ring.ring_size
    keys, entries, next_uses = ring.keys[row], ring.entries, ring.next_uses[row]
    evicted_keys, evicted_owners, evicted_slots = evicted.keys, evicted.owners, evicted.slots
    joining_heads, joining_tails, num_freed = caches.joining_heads, caches.joining_tails, caches.num_freed
    updated = 0 if read_only else DIRTY
    for table in range(len(batch.entry_ends)):
        for entry in range(batch.entry_begins[table], batch.entry_ends[table]):
            slot = entries[row, entry, SLOT]
            state = entries[row, entry, OWNER]
            owner = state >> 2
            dirty = (state & DIRTY) | updated
            use = next_uses[entry, 0]
            if use != NONE:
                use_row = row + (use - i)
                if use_row >= ring.ring_size:
                    use_row -= ring.ring_size
                next_entry = next_uses[entry, 1]
                entries[use_row, next_entry, SLOT] = slot
                late = LATE if updated and use == i + 1 else 0
                entries[use_row, next_entry, OWNER] = owner << 2 | late | dirty
                if use != i + 1:
                    head = joining_heads[owner, use_row]
                    entries[use_row, next_entry, CHAIN] = head
                    joining_heads[owner, use_row] = next_entry
                    joining_tails[owner, use_row] = next_entry if head == NONE else joining_tails[owner, use_row]
                continue
            if dirty:
                evicted_keys[num_evicted] = keys[entry]
                evicted_owners[num_evicted] = owner
                evicted_slots[num_evicted] = slot
                num_evicted += 1
            freed[owner, num_freed[owner]] = slot
            num_freed[owner] += 1
    return num_evicted
