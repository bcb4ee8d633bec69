"""The lists of an iteration plan: who pushes what to whom, in which order rows stand at each trainer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bagpipe_hpc.lookahead.next_use import EnteredBatch, EntryRing
from bagpipe_hpc.lookahead.residency import Placement

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

# Position of (pushed late, gradient needed early) in Gray order; see plan.py.
_GRAY = np.array([0, 1, 3, 2], dtype=np.int32)


@dataclass(frozen=True)
class ExchangeLists:
    """Rows of every trainer in one iteration; flat arrays, cut by the counts.

    `counts[t, o, c]` is the number of rows trainer t holds from owner o in Gray class c (`counts[t, t]`: its own rows,
    all in class 0). `sample_rows` runs over all ids of the batch; `update_slots` is cut by `update_ends` (T + 1,) per
    owner; `push_index` is cut per owner, then per destination, by the counts.
    """

    counts: Int64Array  # (T, T, 4)
    sample_rows: Int32Array
    update_slots: Int32Array
    update_ends: Int64Array
    push_index: Int32Array


def exchange_lists(
    iteration: int,
    previous_updated: bool,
    id_ends: Int64Array,
    batch: EnteredBatch,
    next_uses: Int32Array,
    placement: Placement,
    ring: EntryRing,
) -> ExchangeLists:
    """Order the rows of every trainer and the pushes of every owner.

    Args:
        previous_updated: Whether the iteration before applied gradients (a row used there is pushed late).
    """
    num_trainers = len(id_ends) - 1
    row = iteration % ring.ring_size
    late = ring.used_before[row, : batch.num_entries] & ~placement.fetched & previous_updated
    early_gradient = next_uses[:, 0] == iteration + 1
    gray = _GRAY[2 * late + early_gradient]
    counts = np.zeros((num_trainers, num_trainers, 4), dtype=np.int64)
    sample_rows = np.empty(len(batch.id_pairs), dtype=np.int32)
    update_slots = np.empty(batch.num_entries, dtype=np.int32)
    update_ends = np.zeros(num_trainers + 1, dtype=np.int64)
    push_index = np.empty(len(batch.pair_entries), dtype=np.int32)
    num_pushed = _order(
        id_ends, batch.pair_entries, batch.pair_ends, batch.id_pairs, placement.owner, placement.slot, gray,
        counts, sample_rows, update_slots, update_ends, push_index,
    )  # fmt: skip
    return ExchangeLists(counts, sample_rows, update_slots, update_ends, push_index[:num_pushed])


@njit(cache=True, nogil=True)
def _order(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    id_ends, pair_entries, pair_ends, id_pairs, owner, slot, gray,
    counts, sample_rows, update_slots, update_ends, push_index,
):  # fmt: skip
    num_trainers = len(id_ends) - 1
    num_entries = len(owner)
    # Rows an owner uses itself come first in its update list, in the order of its own rows.
    update_position = np.full(num_entries, -1, dtype=np.int32)
    num_updates = np.zeros(num_trainers, dtype=np.int64)
    for t in range(num_trainers):
        for p in range(pair_ends[t], pair_ends[t + 1]):
            entry = pair_entries[p]
            o = owner[entry]
            if o == t:
                counts[t, t, 0] += 1
                update_position[entry] = num_updates[t]
                num_updates[t] += 1
            else:
                counts[t, o, gray[entry]] += 1
    for entry in range(num_entries):
        if update_position[entry] < 0:
            update_position[entry] = num_updates[owner[entry]]
            num_updates[owner[entry]] += 1
    for o in range(num_trainers):
        update_ends[o + 1] = update_ends[o] + num_updates[o]
    for entry in range(num_entries):
        update_slots[update_ends[owner[entry]] + update_position[entry]] = slot[entry]

    # Where each (owner, destination) block of pushes begins.
    push_begin = np.zeros((num_trainers, num_trainers), dtype=np.int64)
    num_pushed = 0
    for o in range(num_trainers):
        for t in range(num_trainers):
            push_begin[o, t] = num_pushed
            if o != t:
                num_pushed += counts[t, o].sum()

    row_begin = np.empty((num_trainers, 4), dtype=np.int64)
    block_begin = np.empty(num_trainers, dtype=np.int64)
    row_of_pair = np.empty(len(pair_entries), dtype=np.int32)
    for t in range(num_trainers):
        position = counts[t, t, 0]
        for o in range(num_trainers):
            block_begin[o] = position
            for c in range(4):
                row_begin[o, c] = position
                if o != t:
                    position += counts[t, o, c]
        num_own = 0
        for p in range(pair_ends[t], pair_ends[t + 1]):
            entry = pair_entries[p]
            o = owner[entry]
            if o == t:
                row_of_pair[p] = num_own
                num_own += 1
            else:
                row = row_begin[o, gray[entry]]
                row_begin[o, gray[entry]] += 1
                row_of_pair[p] = row
                push_index[push_begin[o, t] + row - block_begin[o]] = update_position[entry]
        first_pair = pair_ends[t]
        for j in range(id_ends[t], id_ends[t + 1]):
            sample_rows[j] = row_of_pair[first_pair + id_pairs[j]]
    return num_pushed


@dataclass(frozen=True)
class TransferLists:
    """Rows that travel between trainers and servers in one iteration, in one direction.

    `slots` (int32) is cut by trainer, then server; `local_rows` (int64) by server, then trainer.
    """

    counts: Int64Array  # (T, S)
    slots: Int32Array
    local_rows: Int64Array


def transfer_lists(
    keys: Int64Array, trainers: Int32Array, slots: Int32Array, num_trainers: int, num_servers: int
) -> TransferLists:
    """Group rows for their stages, keeping the order given within each (trainer, server)."""
    counts = np.zeros((num_trainers, num_servers), dtype=np.int64)
    slots_out = np.empty(len(keys), dtype=np.int32)
    rows_out = np.empty(len(keys), dtype=np.int64)
    _group(keys, trainers, slots, counts, slots_out, rows_out)
    return TransferLists(counts, slots_out, rows_out)


@njit(cache=True, nogil=True)
def _group(keys, trainers, slots, counts, slots_out, rows_out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    num_trainers, num_servers = counts.shape
    for j in range(len(keys)):
        counts[trainers[j], keys[j] % num_servers] += 1
    by_trainer = np.empty(counts.shape, dtype=np.int64)
    by_server = np.empty(counts.shape, dtype=np.int64)
    position = 0
    for t in range(num_trainers):
        for s in range(num_servers):
            by_trainer[t, s] = position
            position += counts[t, s]
    position = 0
    for s in range(num_servers):
        for t in range(num_trainers):
            by_server[t, s] = position
            position += counts[t, s]
    for j in range(len(keys)):
        t, s = trainers[j], keys[j] % num_servers
        slots_out[by_trainer[t, s]] = slots[j]
        by_trainer[t, s] += 1
        rows_out[by_server[t, s]] = keys[j] // num_servers
        by_server[t, s] += 1
