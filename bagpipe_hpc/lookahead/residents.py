"""The rows in the trainers' caches between two iterations: told for a checkpoint, taken over from one.

Between iterations a resident row stands at the entry of its next use (`residency.py`). Taking over looks these entries
up in the first lookahead window of the new run, which may have another L, other cache sizes and other batches than the
one that was saved. Servers of a new run hold every row, those of the caches included: what is taken over starts clean,
and what finds no use in the window, or no slot, is let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lookahead.next_use import CHAIN, DIRTY, NONE, OWNER, SLOT, EntryRing
from bagpipe_hpc.lookahead.plan import Int32Array, Int64Array, ends
from bagpipe_hpc.lookahead.residency import Residency


@dataclass(frozen=True)
class Residents:
    """Rows in caches, trainer by trainer, within a trainer by ascending key.

    Args:
        keys: int64, shape (n,).
        slots: int32, shape (n,).
        dirty: bool, shape (n,): differs from the server's row.
        owner_ends: int64, shape (T + 1,): which rows are whose.
    """

    keys: Int64Array
    slots: Int32Array
    dirty: NDArray[np.bool_]
    owner_ends: Int64Array

    def of(self, trainer: int) -> slice:
        """Where one trainer's rows stand."""
        return slice(int(self.owner_ends[trainer]), int(self.owner_ends[trainer + 1]))

    @property
    def owners(self) -> Int32Array:
        """int32, shape (n,)."""
        return np.repeat(np.arange(len(self.owner_ends) - 1, dtype=np.int32), np.diff(self.owner_ends))


def residents_between(residency: Residency, ring: EntryRing) -> Residents:
    """What is cached after the iteration planned last.

    Rows are linked by their next use, but for those of the iteration planned last: they stand at its entries.
    """
    num_rows = int((residency.num_issued - residency.num_free - residency.num_freed).sum())
    keys, slots = np.empty(num_rows, dtype=np.int64), np.empty(num_rows, dtype=np.int32)
    owners, dirty = np.empty(num_rows, dtype=np.int32), np.empty(num_rows, dtype=np.bool_)
    columns = keys, slots, owners, dirty
    count = _walk_lists(residency.heads, ring.keys, ring.rows, *columns)
    if residency.previous is not None:
        last, begins, stops = residency.previous
        count = _walk_entries(last, begins, stops, ring.next_uses, ring.keys, ring.rows, count, *columns)
    assert count == num_rows
    order = np.lexsort((keys, owners))
    owner_ends = ends(np.bincount(owners, minlength=len(residency.heads)))
    return Residents(keys[order], slots[order], dirty[order], owner_ends)


@compiled
def _walk_lists(heads, ring_keys, ring_rows, keys, slots, owners, dirty):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    count = 0
    for owner in range(heads.shape[0]):
        for row in range(heads.shape[1]):
            entry = heads[owner, row]
            while entry != NONE:
                keys[count] = ring_keys[row, entry]
                slots[count] = ring_rows[row, entry, SLOT]
                owners[count] = owner
                dirty[count] = ring_rows[row, entry, OWNER] & DIRTY
                count += 1
                entry = ring_rows[row, entry, CHAIN]
    return count


@compiled
def _walk_entries(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    last, begins, stops, next_uses, ring_keys, ring_rows, count, keys, slots, owners, dirty,
):  # fmt: skip
    row = last % len(ring_rows)
    for table in range(len(stops)):
        for entry in range(begins[table], stops[table]):
            use = next_uses[row, entry, 0]
            if use == NONE:
                continue
            use_row, next_entry = use % len(ring_rows), next_uses[row, entry, 1]
            state = ring_rows[use_row, next_entry, OWNER]
            keys[count] = ring_keys[use_row, next_entry]
            slots[count] = ring_rows[use_row, next_entry, SLOT]
            owners[count] = state >> 2
            dirty[count] = state & DIRTY
            count += 1
    return count


def take_over(
    residency: Residency,
    ring: EntryRing,
    residents: Residents,
    first_iteration: int,
    entries: Sequence[tuple[Int64Array, Int64Array]],
) -> int:
    """Let caches start with what another run left in them; nothing is planned yet.

    Args:
        first_iteration: The first one to be planned.
        entries: First and last + 1 entry of every table, int64 (num_tables,), of the iterations from there on.
    Returns:
        Rows taken over.
    """
    fits = residents.slots < residency.cache_rows
    by_key = np.argsort(residents.keys[fits], kind="stable")
    keys, slots = residents.keys[fits][by_key], residents.slots[fits][by_key]
    owners = residents.owners[fits][by_key]
    uses = np.full((2, len(keys)), NONE, dtype=np.int64)  # iteration and entry of the first use
    for iteration, (begins, stops) in reversed(list(enumerate(entries, first_iteration))):
        row_keys = ring.keys[ring.row_of(iteration)]
        numbers = np.concatenate([np.arange(begin, stop) for begin, stop in zip(begins, stops, strict=True)])
        places = np.searchsorted(keys, row_keys[numbers])
        found = places < len(keys)
        found[found] = keys[places[found]] == row_keys[numbers[found]]
        uses[:, places[found]] = np.full(found.sum(), iteration), numbers[found]
    used = uses[0] != NONE
    slots, owners, uses = slots[used], owners[used], uses[:, used]
    _link(slots, owners, uses, residency.heads, residency.farthest, ring.rows)
    for trainer in range(len(residency.heads)):
        _occupy(residency, trainer, slots[owners == trainer])
    return len(slots)


@compiled
def _link(slots, owners, uses, heads, farthest, ring_rows):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for j in range(len(slots)):
        owner, use, entry = owners[j], uses[0, j], uses[1, j]
        row = use % heads.shape[1]
        ring_rows[row, entry, SLOT] = slots[j]
        ring_rows[row, entry, OWNER] = owner << 2
        ring_rows[row, entry, CHAIN] = heads[owner, row]
        heads[owner, row] = entry
        farthest[owner] = max(farthest[owner], use)


def _occupy(residency: Residency, trainer: int, slots: Int32Array) -> None:
    """Slots below the highest one in use are free or in use, those above were never issued."""
    num_issued = int(slots.max(initial=-1)) + 1
    free = np.setdiff1d(np.arange(num_issued, dtype=np.int32), slots)
    if len(free) > residency.free.shape[1]:
        grown = np.empty((len(residency.free), len(free)), dtype=np.int32)
        grown[:, : residency.free.shape[1]] = residency.free
        residency.free = grown
    residency.free[trainer, : len(free)] = free
    residency.num_free[trainer], residency.num_issued[trainer] = len(free), num_issued
