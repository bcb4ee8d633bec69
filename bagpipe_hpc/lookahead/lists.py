"""The lists of an iteration plan: who pushes what to whom, in which order rows stand at each trainer."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lookahead.next_use import CODE, NONE, SLOT, UPDATE, EnteredBatch
from bagpipe_hpc.lookahead.plan import ExchangeLists, Int32Array, Int64Array, TransferLists, ends
from bagpipe_hpc.lookahead.residency import MovingRows


def exchange_lists(
    batch: EnteredBatch, entry_begins: Int64Array, pair_entries: Int32Array, rows: Int32Array
) -> ExchangeLists:
    """Order the rows of every trainer and the pushes of every owner.

    Args:
        entry_begins: int64, shape (num_tables,): first entry of each table.
        pair_entries: int32, entry of each pair.
        rows: int32, shape (n, 4): SLOT and CODE of each entry; UPDATE is written.
    """
    num_trainers = batch.pair_ends.shape[1] - 1
    unique_ends = ends(batch.num_uniques.sum(axis=1))
    codes, unique_rows = np.empty((2, unique_ends[-1]), dtype=np.int32)
    counts = np.zeros((num_trainers, 4 * num_trainers), dtype=np.int32)  # of each trainer's rows, by code
    num_updates = np.zeros(num_trainers, dtype=np.int64)
    _rank(
        batch.pair_ends, pair_entries, entry_begins, batch.entry_ends, rows, unique_ends,
        num_updates, counts, codes, unique_rows,
    )  # fmt: skip
    update_ends = ends(num_updates)
    num_own = np.empty(num_trainers, dtype=np.int32)
    row_begins, push_offsets = np.empty((2, *counts.shape), dtype=np.int32)
    push_ends = np.zeros(num_trainers + 1, dtype=np.int64)
    _begin(counts, num_own, row_begins, push_offsets, push_ends)
    update_slots = np.empty(update_ends[-1], dtype=np.int32)
    _list_updates(entry_begins, batch.entry_ends, rows, num_own.copy(), update_ends, update_slots)
    push_index = np.empty(push_ends[-1] + 1, dtype=np.int32)
    _list_pushes(
        batch.pair_ends, pair_entries, rows, unique_ends, codes, row_begins, push_offsets, unique_rows, push_index
    )
    replica_counts = counts.reshape(num_trainers, num_trainers, 4)
    return ExchangeLists(
        num_own, replica_counts, unique_rows, unique_ends, update_slots, update_ends, push_index[:-1], push_ends
    )


# In the loops over pairs: tables outermost, because the entries of one table fit into a near cache while the pairs of
# all trainers look at them; and selections instead of branches, because who owns a row is a coin toss.


@compiled
def _rank(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    pair_ends, pair_entries, entry_begins, entry_ends, rows, unique_ends, num_updates, counts, codes, unique_rows
):
    """Code of each pair, and its rank among its trainer's rows of that code; own rows share one code."""
    num_tables, num_trainers = pair_ends.shape[0], pair_ends.shape[1] - 1
    uniques = unique_ends[:-1].copy()
    for table in range(num_tables):
        for entry in range(entry_begins[table], entry_ends[table]):
            num_updates[rows[entry, CODE] >> 2] += 1
            rows[entry, UPDATE] = NONE
        for t in range(num_trainers):
            own_code = np.int32(4 * t)
            unique = uniques[t] - pair_ends[table, t]
            for pair in range(pair_ends[table, t], pair_ends[table, t + 1]):
                entry = pair_entries[pair]
                code = rows[entry, CODE]
                update = rows[entry, UPDATE]
                own = code >> 2 == t
                code = own_code if own else code
                rank = counts[t, code]
                counts[t, code] = rank + np.int32(1)
                rows[entry, UPDATE] = rank if own else update
                codes[unique + pair] = code
                unique_rows[unique + pair] = rank
            uniques[t] = unique + pair_ends[table, t + 1]


@compiled
def _begin(counts, num_own, row_begins, push_offsets, push_ends):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Where the rows of each (trainer, code) begin, and how far a row is from its place among its owner's pushes.

    Pushes stand by owner, then receiver. Own rows are moved from `counts` to `num_own`.
    """
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
        push_ends[o + 1] = pushed


@compiled
def _list_updates(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    entry_begins, entry_ends, rows, num_listed, update_ends, update_slots
):
    """Rows an owner uses itself come first in its update list, in the order of its own rows; then all others."""
    for table in range(len(entry_ends)):
        for entry in range(entry_begins[table], entry_ends[table]):
            owner = rows[entry, CODE] >> 2
            position = rows[entry, UPDATE]
            if position == NONE:
                position = num_listed[owner]
                num_listed[owner] += np.int32(1)
                rows[entry, UPDATE] = position
            update_slots[update_ends[owner] + position] = rows[entry, SLOT]


@compiled
def _list_pushes(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    pair_ends, pair_entries, rows, unique_ends, codes, row_begins, push_offsets, unique_rows, push_index
):
    """Ranks become rows; the last element of push_index takes what is not pushed."""
    num_tables, num_trainers = pair_ends.shape[0], pair_ends.shape[1] - 1
    uniques = unique_ends[:-1].copy()
    nowhere = len(push_index) - 1
    for table in range(num_tables):
        for t in range(num_trainers):
            unique = uniques[t] - pair_ends[table, t]
            for pair in range(pair_ends[table, t], pair_ends[table, t + 1]):
                code = codes[unique + pair]
                row = row_begins[t, code] + unique_rows[unique + pair]
                unique_rows[unique + pair] = row
                place = push_offsets[t, code] + row
                push_index[nowhere if code >> 2 == t else place] = rows[pair_entries[pair], UPDATE]
            uniques[t] = unique + pair_ends[table, t + 1]


def transfer_lists(rows: MovingRows, num_trainers: int, num_servers: int) -> TransferLists:
    """Group rows for their stages, keeping the order given within each (trainer, server)."""
    counts = np.zeros((num_trainers, num_servers), dtype=np.int64)
    slots, local_rows = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=rows.keys.dtype)
    _group(rows.keys, rows.owners, rows.slots, counts, slots, local_rows)
    return TransferLists(counts, slots, local_rows)


@compiled
def count_transfers(keys, trainers, counts):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add to counts, int64 (T, S), the rows of each trainer and server."""
    num_servers = counts.shape[1]
    for j in range(len(keys)):
        counts[trainers[j], keys[j] % num_servers] += 1


@compiled
def _group(keys, trainers, slots, counts, slots_out, rows_out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    count_transfers(keys, trainers, counts)
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
        t, s = trainers[j], keys[j] % num_servers
        slots_out[by_trainer[t, s]] = slots[j]
        by_trainer[t, s] += 1
        rows_out[by_server[t, s]] = keys[j] // num_servers
        by_server[t, s] += 1
