"""The rows in the trainers' caches between two iterations: lists for a checkpoint, and caches from such lists.

Between iterations a resident row stands at the entry of its next use (`residency.py`). Taking over looks these entries
up in the first lookahead window of the new run, which may have another L, other cache sizes and other batches than the
run that was saved. Servers of a new run hold every row, those of the caches included. So a row that is taken over
starts clean, and a row that has no use in the window, or no slot, is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lookahead.next_use import CHAIN, DIRTY, NONE, OWNER, SLOT, EnteredBatch, EntryRing
from bagpipe_hpc.lookahead.residency import CacheModel, Caches
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array, Residents, ends


def residents_between(residency: CacheModel, ring: EntryRing) -> Residents:
    """Return what the caches hold after the iteration planned last.

    Rows are in the lists of `residency.py`. Those of the iteration planned last are not yet: they are found through its
    entries.
    """
    caches = residency.caches
    found = _Found.empty(int((caches.num_issued - caches.num_free - caches.num_freed).sum()))
    count = _walk_lists(caches.heads, ring, found)
    if residency.previous is not None:
        count = _walk_entries(*residency.previous, ring, count, found)
    assert count == len(found.keys)
    order = np.lexsort((found.keys, found.owners))
    owner_ends = ends(np.bincount(found.owners, minlength=len(caches.heads)))
    return Residents(found.keys[order], found.slots[order], found.dirty[order], owner_ends)


class _Found(NamedTuple):
    """The n resident rows in the order in which they were found.

    Args:
        keys: int64, shape (n,).
        slots: int32, shape (n,).
        owners: int32, shape (n,).
        dirty: bool, shape (n,): whether the row differs from the server's.
    """

    keys: Int64Array
    slots: Int32Array
    owners: Int32Array
    dirty: NDArray[np.bool_]

    @classmethod
    def empty(cls, size: int) -> _Found:
        slots, owners = np.empty((2, size), dtype=np.int32)
        return cls(np.empty(size, dtype=np.int64), slots, owners, np.empty(size, dtype=np.bool_))


@compiled
def _walk_lists(heads: Int32Array, ring: EntryRing, found: _Found) -> int:
    """Find the rows of all lists, and return how many there are."""
    count = 0
    for owner in range(heads.shape[0]):
        for row in range(heads.shape[1]):
            entry = heads[owner, row]
            while entry != NONE:
                found.keys[count] = ring.keys[row, entry]
                found.slots[count] = ring.entries[row, entry, SLOT]
                found.owners[count] = owner
                found.dirty[count] = ring.entries[row, entry, OWNER] & DIRTY
                count += 1
                entry = ring.entries[row, entry, CHAIN]
    return count


@compiled
def _walk_entries(last: int, batch: EnteredBatch, ring: EntryRing, count: int, found: _Found) -> int:
    """Append the rows of the iteration planned last to the `count` rows found so far, and return their number."""
    row = last % ring.ring_size
    for table in range(len(batch.entry_ends)):
        for entry in range(batch.entry_begins[table], batch.entry_ends[table]):
            use = ring.next_uses[row, entry, 0]
            if use == NONE:
                continue
            use_row, next_entry = use % ring.ring_size, ring.next_uses[row, entry, 1]
            state = ring.entries[use_row, next_entry, OWNER]
            found.keys[count] = ring.keys[use_row, next_entry]
            found.slots[count] = ring.entries[use_row, next_entry, SLOT]
            found.owners[count] = state >> 2
            found.dirty[count] = state & DIRTY
            count += 1
    return count


def take_over(
    residency: CacheModel,
    ring: EntryRing,
    residents: Residents,
    first_iteration: int,
    batches: Sequence[EnteredBatch],
) -> int:
    """Fill empty caches with the rows that another run left in its own, before anything is planned.

    Args:
        residency: The caches.
        ring: The iterations of the lookahead window.
        residents: What the other run left.
        first_iteration: The iteration that is planned first.
        batches: Of the iterations of the lookahead window, from the first one on.
    Returns:
        The number of rows that are kept.
    """
    fits = residents.slots < residency.cache_rows
    by_key = np.argsort(residents.keys[fits], kind="stable")
    keys, slots = residents.keys[fits][by_key], residents.slots[fits][by_key]
    owners = residents.owners[fits][by_key]
    uses = np.full((2, len(keys)), NONE, dtype=np.int64)  # iteration and entry of the first use
    for iteration, batch in reversed(list(enumerate(batches, first_iteration))):
        row_keys = ring.keys[ring.row_of(iteration)]
        tables = zip(batch.entry_begins, batch.entry_ends, strict=True)
        numbers = np.concatenate([np.arange(begin, end) for begin, end in tables])
        places = np.searchsorted(keys, row_keys[numbers])
        found = places < len(keys)
        found[found] = keys[places[found]] == row_keys[numbers[found]]
        # What begins anew is another row than the resident one, which has no use from there on.
        goes_on = found & ~np.isin(numbers, batch.born)
        uses[:, places[found]] = NONE
        uses[:, places[goes_on]] = np.full(goes_on.sum(), iteration), numbers[goes_on]
    used = uses[0] != NONE
    slots, owners, uses = slots[used], owners[used], uses[:, used]
    _link(slots, owners, uses, residency.caches, ring)
    for trainer in range(len(residency.caches.heads)):
        _occupy(residency, trainer, slots[owners == trainer])
    return len(slots)


@compiled
def _link(slots: Int32Array, owners: Int32Array, uses: Int64Array, caches: Caches, ring: EntryRing) -> None:
    """Write slot and owner of each row to the entry of its first use, and put the rows into the lists.

    Args:
        slots: int32, shape (n,).
        owners: int32, shape (n,).
        uses: int64, shape (2, n): iteration and entry of each row's first use.
    """
    heads, farthest, entries = caches.heads, caches.farthest, ring.entries
    for j in range(len(slots)):
        owner, use, entry = owners[j], uses[0, j], uses[1, j]
        row = use % heads.shape[1]
        entries[row, entry, SLOT] = slots[j]
        entries[row, entry, OWNER] = owner << 2
        entries[row, entry, CHAIN] = heads[owner, row]
        heads[owner, row] = entry
        farthest[owner] = max(farthest[owner], use)


def _occupy(residency: CacheModel, trainer: int, slots: Int32Array) -> None:
    """Mark the given slots of a trainer as used, and all other slots below the highest of them as free."""
    num_issued = int(slots.max(initial=-1)) + 1
    free = np.setdiff1d(np.arange(num_issued, dtype=np.int32), slots)
    residency.reserve_free(len(free))
    residency.free[trainer, : len(free)] = free
    residency.caches.num_free[trainer], residency.caches.num_issued[trainer] = len(free), num_issued
