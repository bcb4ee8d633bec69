"""The lists of an iteration plan: which rows each owner pushes to whom, and the order of the rows at each trainer.

`protocol/plan.py` defines that order and the four Gray classes of replicas. Here a *code* is `owner << 2 | Gray class`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lookahead.next_use import CODE, LATE, NONE, OWNER, SLOT, UPDATE, EnteredBatch, EntryRing
from bagpipe_hpc.lookahead.residency import MovingRows
from bagpipe_hpc.protocol.plan import ExchangeLists, Int32Array, Int64Array, TransferLists, ends


class _Pairs(NamedTuple):
    """The n pairs of an iteration, trainer by trainer, within a trainer table by table.

    Args:
        unique_ends: int64, shape (T + 1,): trainer t has the pairs from unique_ends[t] to unique_ends[t + 1].
        codes: int32, shape (n,): code of each pair. All rows that trainer t owns itself have the code 4 t.
        positions: int32, shape (n,): position of each pair among its trainer's rows of the same code, written by
            `_code_pairs`; then its position among all rows of its trainer, written by `_list_pushes`.
    """

    unique_ends: Int64Array
    codes: Int32Array
    positions: Int32Array


class _Blocks(NamedTuple):
    """The blocks of rows of the same code, trainer by trainer.

    Args:
        counts: int32, shape (T, 4 T): number of rows of each trainer and code; 0 for the rows that it owns itself.
        num_own: int32, shape (T,): number of rows that each trainer owns and uses itself.
        row_begins: int32, shape (T, 4 T): position of the first row of each code at each trainer.
        push_offsets: int32, shape (T, 4 T): what is added to the position of a row at its trainer to get the position
            of its push among all pushes. Pushes stand owner by owner, within an owner receiver by receiver.
        push_ends: int64, shape (T + 1,): owner o has the pushes from push_ends[o] to push_ends[o + 1].
    """

    counts: Int32Array
    num_own: Int32Array
    row_begins: Int32Array
    push_offsets: Int32Array
    push_ends: Int64Array

    @classmethod
    def empty(cls, num_trainers: int) -> _Blocks:
        """Return blocks without rows."""
        shape = num_trainers, 4 * num_trainers
        begins, offsets = np.empty((2, *shape), dtype=np.int32)
        num_own = np.empty(num_trainers, dtype=np.int32)
        return cls(np.zeros(shape, dtype=np.int32), num_own, begins, offsets, np.zeros(num_trainers + 1, np.int64))


def exchange_lists(iteration: int, batch: EnteredBatch, ring: EntryRing) -> ExchangeLists:
    """Order the rows of every trainer and the pushes of every owner.

    Args:
        iteration: Its number.
        batch: Its pairs and entries.
        ring: Has SLOT and OWNER of each entry. CODE and UPDATE are written.
    """
    row = ring.row_of(iteration)
    num_trainers = batch.pair_ends.shape[1] - 1
    unique_ends = ends(batch.num_uniques.sum(axis=1))
    codes, unique_rows = np.empty((2, unique_ends[-1]), dtype=np.int32)
    pairs, blocks = _Pairs(unique_ends, codes, unique_rows), _Blocks.empty(num_trainers)
    num_updates = np.zeros(num_trainers, dtype=np.int64)
    _code_pairs(iteration, batch, ring, pairs, blocks, num_updates)
    update_ends = ends(num_updates)
    _begin(blocks)
    update_slots = np.empty(update_ends[-1], dtype=np.int32)
    _list_updates(row, batch, ring, blocks.num_own.copy(), update_ends, update_slots)
    push_index = np.empty(blocks.push_ends[-1] + 1, dtype=np.int32)
    _list_pushes(row, batch, ring, pairs, blocks, push_index)
    replica_counts = blocks.counts.reshape(num_trainers, num_trainers, 4)
    return ExchangeLists(
        blocks.num_own,
        replica_counts,
        unique_rows,
        unique_ends,
        update_slots,
        update_ends,
        push_index[:-1],
        blocks.push_ends,
    )


# In the loops over pairs, tables are outermost: the entries of one table fit into a near cache while the pairs of all
# trainers look at them. Selections stand where branches could, because no processor predicts which trainer owns a row.


@compiled
def _code_pairs(
    i: int, batch: EnteredBatch, ring: EntryRing, pairs: _Pairs, blocks: _Blocks, num_updates: Int64Array
) -> None:
    """Write the code of each entry and pair, and the position of each pair among its trainer's rows of that code.

    UPDATE of an entry becomes its position among the rows that its owner uses itself, or NONE.
    """
    row = i % ring.ring_size
    entries, next_uses, planned = ring.entries[row], ring.next_uses[row], ring.planned
    pair_ends, pair_entries = batch.pair_ends, ring.pair_entries[row]
    codes, positions, counts = pairs.codes, pairs.positions, blocks.counts
    num_tables, num_trainers = pair_ends.shape[0], pair_ends.shape[1] - 1
    uniques = pairs.unique_ends[:-1].copy()
    for table in range(num_tables):
        for entry in range(batch.entry_begins[table], batch.entry_ends[table]):
            state = entries[entry, OWNER]
            owner = state >> 2
            # The Gray class of (pushed late, gradient needed early): 0 for 00, 1 for 01, 2 for 11, 3 for 10.
            late, early = (state & LATE) >> 1, np.int32(next_uses[entry, 0] == i + 1)
            planned[entry, CODE] = owner << 2 | late << 1 | (late ^ early)
            planned[entry, UPDATE] = NONE
            num_updates[owner] += 1
        for t in range(num_trainers):
            own_code = np.int32(4 * t)
            unique = uniques[t] - pair_ends[table, t]
            for pair in range(pair_ends[table, t], pair_ends[table, t + 1]):
                entry = pair_entries[pair]
                code = planned[entry, CODE]
                update = planned[entry, UPDATE]
                own = code >> 2 == t
                code = own_code if own else code
                position = counts[t, code]
                counts[t, code] = position + np.int32(1)
                planned[entry, UPDATE] = position if own else update
                codes[unique + pair] = code
                positions[unique + pair] = position
            uniques[t] = unique + pair_ends[table, t + 1]


@compiled
def _begin(blocks: _Blocks) -> None:
    """Find where the rows of each trainer and code begin. Move the numbers of own rows from `counts` to `num_own`."""
    counts, num_own, row_begins, push_offsets = blocks.counts, blocks.num_own, blocks.row_begins, blocks.push_offsets
    num_trainers = len(num_own)
    for t in range(num_trainers):
        num_own[t] = counts[t, 4 * t]
        counts[t, 4 * t] = 0
        row = num_own[t]
        for code in range(4 * num_trainers):
            row_begins[t, code] = row
            row += counts[t, code]
        row_begins[t, 4 * t] = 0
    pushed = 0
    for o in range(num_trainers):
        for t in range(num_trainers):
            offset = pushed - row_begins[t, 4 * o]
            for code in range(4 * o, 4 * o + 4):
                push_offsets[t, code] = offset
                pushed += counts[t, code]
        blocks.push_ends[o + 1] = pushed


@compiled
def _list_updates(
    row: int,
    batch: EnteredBatch,
    ring: EntryRing,
    num_listed: Int32Array,
    update_ends: Int64Array,
    update_slots: Int32Array,
) -> None:
    """List the slots that each owner updates: first the rows that it uses itself, in their order, then all others."""
    entries, planned = ring.entries[row], ring.planned
    for table in range(len(batch.entry_ends)):
        for entry in range(batch.entry_begins[table], batch.entry_ends[table]):
            owner = planned[entry, CODE] >> 2
            position = planned[entry, UPDATE]
            listed = num_listed[owner]
            is_used_elsewhere = position == NONE
            position = listed if is_used_elsewhere else position
            num_listed[owner] = listed + np.int32(is_used_elsewhere)
            planned[entry, UPDATE] = position
            update_slots[update_ends[owner] + position] = entries[entry, SLOT]


@compiled
def _list_pushes(
    row: int, batch: EnteredBatch, ring: EntryRing, pairs: _Pairs, blocks: _Blocks, push_index: Int32Array
) -> None:
    """Turn positions within a code into positions at the trainer, and list the pushes of every owner.

    The last element of `push_index` is written for every pair that is not pushed, which saves a branch.
    """
    pair_ends, pair_entries, planned = batch.pair_ends, ring.pair_entries[row], ring.planned
    codes, positions = pairs.codes, pairs.positions
    row_begins, push_offsets = blocks.row_begins, blocks.push_offsets
    num_tables, num_trainers = pair_ends.shape[0], pair_ends.shape[1] - 1
    uniques = pairs.unique_ends[:-1].copy()
    nowhere = len(push_index) - 1
    for table in range(num_tables):
        for t in range(num_trainers):
            unique = uniques[t] - pair_ends[table, t]
            for pair in range(pair_ends[table, t], pair_ends[table, t + 1]):
                code = codes[unique + pair]
                position = row_begins[t, code] + positions[unique + pair]
                positions[unique + pair] = position
                place = push_offsets[t, code] + position
                push_index[nowhere if code >> 2 == t else place] = planned[pair_entries[pair], UPDATE]
            uniques[t] = unique + pair_ends[table, t + 1]


def transfer_lists(rows: MovingRows, num_trainers: int, num_servers: int) -> TransferLists:
    """Group rows by trainer and server, in the order of their stages. Within a group the rows keep their order."""
    counts = np.zeros((num_trainers, num_servers), dtype=np.int64)
    num_rows = len(rows.keys)
    slots, local_rows = np.empty(num_rows, dtype=np.int32), np.empty(num_rows, dtype=rows.keys.dtype)
    transfers = TransferLists(counts, slots, local_rows)
    _group(rows, transfers)
    return transfers


@compiled
def count_transfers(rows: MovingRows, counts: Int64Array) -> None:
    """Count the rows of each trainer and server.

    Args:
        counts: int64, shape (T, S); the numbers are added to it.
    """
    keys, owners, num_servers = rows.keys, rows.owners, counts.shape[1]
    for j in range(len(keys)):
        counts[owners[j], keys[j] % num_servers] += 1


@compiled
def _group(rows: MovingRows, transfers: TransferLists) -> None:
    keys, owners, slots = rows.keys, rows.owners, rows.slots
    counts, grouped_slots, local_rows = transfers.counts, transfers.slots, transfers.local_rows
    count_transfers(rows, counts)
    num_trainers, num_servers = counts.shape
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
        t, s = owners[j], keys[j] % num_servers
        grouped_slots[by_trainer[t, s]] = slots[j]
        by_trainer[t, s] += 1
        local_rows[by_server[t, s]] = keys[j] // num_servers
        by_server[t, s] += 1
