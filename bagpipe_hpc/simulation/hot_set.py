"""A static hot set: every trainer holds the rows that the whole stream uses most; servers hold the others.

The gradients of hot rows that a batch uses are all-reduced. Other rows are fetched for each batch, and their gradients
are sent back. The hot set is known before the first batch, as if a pass over the data had counted it, and loading it is
not counted. FAE (Adnan et al., VLDB 2022) chooses rows in this way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.protocol.plan import Int64Array
from bagpipe_hpc.simulation.accesses import Accesses
from bagpipe_hpc.simulation.traffic import (
    ID_BYTES,
    Flow,
    Traffic,
    allreduce_rounds,
    everywhere,
    ring_bytes,
)


def hottest(counts: Int64Array, num_rows: int) -> NDArray[np.bool_]:
    """Return which keys are the most used ones, bool, shape (num_keys,).

    Args:
        counts: How often each key is used, int64, shape (num_keys,).
        num_rows: How many keys; among equally used ones, those with the lowest numbers.
    """
    chosen = np.zeros(len(counts), dtype=np.bool_)
    chosen[np.argsort(-counts, kind="stable")[:num_rows]] = True
    return chosen


def count_hot_hits(accesses: Accesses, sizes: list[int]) -> dict[int, int]:
    """Return how many entries are in the hot set, by the number of rows of the set; each row misses once."""
    counts = np.bincount(accesses.entries, minlength=accesses.num_keys)
    totals = np.cumsum(np.sort(counts)[::-1])
    held = {size: min(size, accesses.num_keys) for size in sizes}
    return {size: int(totals[rows - 1]) - rows for size, rows in held.items()}


def play_hot_set(accesses: Accesses, cache_rows: int, num_servers: int, row_bytes: int) -> Traffic:
    """Return what the design moves.

    Args:
        accesses: The stream.
        cache_rows: Number of hot rows that each trainer holds.
        num_servers: S; key k is on server k mod S.
        row_bytes: Bytes of a row.
    """
    num_trainers = accesses.num_trainers
    hot = hottest(np.bincount(accesses.entries, minlength=accesses.num_keys), cache_rows)
    hot_entries = _sums(hot[accesses.entries], accesses.entry_ends)
    hot_pairs = _sums(hot[accesses.pairs], accesses.pair_ends).reshape(accesses.num_iterations, num_trainers)
    cold = (accesses.pair_counts - hot_pairs).astype(float)
    num_cold = int(cold.sum())
    fetching = Flow(row_bytes * cold, (row_bytes + 2 * ID_BYTES) * cold)
    summing = everywhere(ring_bytes(hot_entries, row_bytes, num_trainers), num_trainers)
    return Traffic(
        design="hot-set",
        num_pairs=len(accesses.pairs),
        num_local=int(hot_pairs.sum()),
        rows_fetched=num_cold,
        rows_written=num_cold,
        rows_exchanged=2 * (num_trainers - 1) * int(hot_entries.sum()),
        critical=fetching + summing,
        late=Flow.none(*cold.shape),
        server_bytes=(row_bytes + 2 * ID_BYTES) * accesses.busiest_owner(num_servers, ~hot),
        servers_are_critical=True,
        rounds=2 + allreduce_rounds(num_trainers),
        cache_rows=min(cache_rows, accesses.num_keys),
    )


def _sums(chosen: NDArray[np.bool_], part_ends: Int64Array) -> Int64Array:
    """Return how many elements of each part are chosen, int64, shape (len(part_ends) - 1,)."""
    totals = np.concatenate([[0], np.cumsum(chosen, dtype=np.int64)])
    return np.diff(totals[part_ends])
