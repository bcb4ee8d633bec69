"""How much memory each role needs, as estimates from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.lookahead.planner import BATCHES_AHEAD, MAX_DENSE_KEYS, MIN_RING_ROWS
from bagpipe_hpc.protocol.plan import Int64Array
from bagpipe_hpc.sizing.workload import Workload

# What the planner keeps (docs/architecture.md, "What one oracle sustains").
KEY_BYTES, WINDOW_KEY_BYTES = 8, 32  # with an array of all keys; with a hash table of the keys of the window
ENTRY_BYTES, PAIR_BYTES, ID_BYTES = 28, 8, 2
# Of a process that has no rows yet, as measured with torch on a CPU.
ORACLE_BYTES, SERVER_BYTES, TRAINER_BYTES = 430 << 20, 200 << 20, 560 << 20


@dataclass(frozen=True)
class Sizes:
    """What memory depends on besides the plans.

    Args:
        num_keys: Rows of all tables together.
        ids_per_sample: Mean number of ids of a sample.
        num_dense: Dense features.
        row_bytes: Of a row with its optimizer state.
        trainer_need: Of a trainer besides its cache: buffers, activations and dense parameters.
    """

    num_keys: int
    ids_per_sample: float
    num_dense: int
    row_bytes: int
    trainer_need: int


@dataclass(frozen=True)
class RoleMemory:
    """Bytes of one rank of each role; of the server and the trainer with most.

    Args:
        oracle: With its window and its states of keys.
        server: If every row of the tables is touched.
        trainer: With a cache of cache_rows.
        cache_rows: The slots of the cache.
    """

    oracle: int
    server: int
    trainer: int
    cache_rows: int


def memory_of(workload: Workload, sizes: Sizes, cache_rows: int) -> RoleMemory:
    """Return the memory of each role.

    Args:
        workload: What ranks move.
        sizes: Sizes of the job.
        cache_rows: Slots of each trainer.
    """
    choice = workload.choice
    entries, pairs = workload.num_entries_bound, float(workload.unique_rows.sum(axis=1).max())
    samples = int(workload.num_samples.max())
    per_iteration = ENTRY_BYTES * entries + PAIR_BYTES * pairs
    per_iteration += samples * (ID_BYTES * sizes.ids_per_sample + 4 * (sizes.num_dense + 1))
    iterations = choice.window + BATCHES_AHEAD + 3
    if sizes.num_keys <= MAX_DENSE_KEYS:
        states = float(KEY_BYTES * sizes.num_keys)
    else:
        states = WINDOW_KEY_BYTES * min(float(sizes.num_keys), iterations * entries)
    plans = 2 * BATCHES_AHEAD * float(workload.plan_bytes.sum(axis=1).max())
    rings = (choice.prefetch_depth + 1) * sum(_ring_rows(rows) for rows in (workload.fetched, workload.written_back))
    shard = -(-sizes.num_keys // choice.num_servers)
    return RoleMemory(
        oracle=round(ORACLE_BYTES + states + iterations * per_iteration + plans),
        server=SERVER_BYTES + sizes.row_bytes * (shard + rings),
        trainer=TRAINER_BYTES + sizes.row_bytes * cache_rows + sizes.trainer_need,
        cache_rows=cache_rows,
    )


def _ring_rows(moved: Int64Array) -> int:
    """Return the rows of one slot of a ring, which grows by doubling: rows by trainer and server, shape (n, T, S)."""
    largest = int(moved.sum(axis=1).max())
    return max(MIN_RING_ROWS, 1 << int(np.ceil(np.log2(max(1, largest)))))
