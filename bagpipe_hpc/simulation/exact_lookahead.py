"""A cache with exact lookahead: after each batch it keeps the rows whose next uses are nearest.

This is Belady's rule (1966) for batches. The rows of a batch are used at the same time, so the cache chooses what it
keeps once per batch, among the rows that it had and those of the batch. It may keep none of a batch. Rows whose next
use is beyond the lookahead window are not kept: the oracle does not know their next use.

Any policy that takes the rows of a batch one after the other holds, between two batches, some of the same rows, and at
most as many. So none of them has more hits at the same size.

The planner of this package keeps a few rows less: see `planned_lookahead`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
from bagpipe_hpc.simulation.accesses import NEVER, Accesses

UNLIMITED = 2**31 - 1  # a lookahead window that is longer than every stream


def count_hits(accesses: Accesses, window: int, cache_rows: int) -> Int64Array:
    """Count the rows of each batch that are in the cache when the batch begins.

    Args:
        accesses: The stream.
        window: L.
        cache_rows: Number of rows that the cache holds between two batches.
    Returns:
        int64, shape (num_iterations,).
    """
    hits = np.zeros(accesses.num_iterations, dtype=np.int64)
    is_resident = np.zeros(len(accesses.entries), dtype=np.bool_)
    links = np.empty(len(accesses.entries), dtype=np.int32)
    heads = np.full(accesses.num_iterations, NEVER, dtype=np.int32)
    _play(
        accesses.entry_ends, accesses.iterations, accesses.next_entries(), window, cache_rows, is_resident, links,
        heads, hits,
    )  # fmt: skip
    return hits


@compiled
def _play(
    entry_ends: Int64Array,
    iterations: Int32Array,
    next_entries: Int32Array,
    window: int,
    cache_rows: int,
    is_resident: NDArray[np.bool_],
    links: Int32Array,
    heads: Int32Array,
    hits: Int64Array,
) -> None:
    """Resident rows are in lists by the iteration of their next use. The farthest list loses rows first."""
    num_resident = 0
    farthest = 0
    for i in range(len(entry_ends) - 1):
        for entry in range(entry_ends[i], entry_ends[i + 1]):
            hits[i] += is_resident[entry]
        num_resident -= hits[i]
        for entry in range(entry_ends[i], entry_ends[i + 1]):
            following = next_entries[entry]
            if following != NEVER and iterations[following] - i <= window:
                n = iterations[following]
                is_resident[following] = True
                links[following] = heads[n]
                heads[n] = following
                farthest = max(farthest, n)
                num_resident += 1
        while num_resident > cache_rows:
            while heads[farthest] == NEVER:
                farthest -= 1
            evicted = heads[farthest]
            heads[farthest] = links[evicted]
            is_resident[evicted] = False
            num_resident -= 1
