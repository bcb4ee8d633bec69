"""The script of one iteration, as typed arrays: what each trainer and each embedding server does.

Schedule is data. Nothing here is asked for or negotiated while the job runs: every count, slot and stage position below
was decided by the oracle. All arrays are int32 unless said otherwise; T trainers, S servers.

**Order of a trainer's rows in an iteration.** `rows[0:num_own]` are rows it owns and uses; then one block per other
owner, in ascending trainer order, holds its replicas. Within a block, entries stand in *Gray order* of two bits,
(pushed late, gradient needed early):

    1 early push, delayed gradient      3 critical push, critical gradient
    2 early push, critical gradient     4 critical push, delayed gradient

Early pushes are thus a prefix, critical pushes a suffix, critical gradients one contiguous run: both halves of critical
and delayed synchronisation (paper section 3.3) are slices of the one list. A push is *critical* when the row was
updated in the iteration before; a gradient is *critical* when the row is used in the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class TrainerPlan:
    """One trainer's part of iteration i.

    Order of play: set aside `forced` evictions; insert fetched rows; push; compute; send gradients; update; drain the
    evictions; write back.
    """

    iteration: int
    read_only: bool  # evaluation: no gradients, no updates
    num_samples: int  # of this trainer's share
    num_global_samples: int  # of the whole batch: what the mean loss divides by

    # --- the share itself
    labels: Float32Array  # (num_samples,)
    dense: Float32Array  # (num_samples, num_dense)
    sample_rows: Int32Array  # (num_samples * num_tables,) position in the rows of this iteration, sample by sample

    # --- cache insertions
    fetch_slots: Int32Array  # slots of the rows that arrive, server by server
    fetch_counts: Int32Array  # (S,) how many from each server
    fetch_offsets: Int64Array  # (S,) int64: first row of this trainer's fetch stage in each server's window

    # --- exchange with the other trainers
    num_own: int  # rows this trainer owns and uses
    update_slots: Int32Array  # (num_updated,) every row it owns that anyone uses; its own uses first, in row order
    push_index: Int32Array  # (push_counts.sum(),) positions in update_slots, destination by destination
    push_counts: Int32Array  # (T,) rows pushed to each trainer; 0 for itself
    push_cuts: Int32Array  # (T, 3) ends of the first three Gray classes within each destination's list
    replica_counts: Int32Array  # (T,) rows pushed by each trainer
    replica_cuts: Int32Array  # (T, 3) the same cuts, seen from the receiver

    # --- evictions
    write_back_slots: Int32Array  # dirty rows that leave, server by server; within a server the forced ones first
    write_back_counts: Int32Array  # (S,)
    forced_counts: Int32Array  # (S,) how many of them leave before the insertions of this iteration (cache full)
    write_back_offsets: Int64Array  # (S,) int64: first row of this trainer's write-back stage in each server's window

    # --- sizes of the stage rings: rows of one ring slot, both directions; they only ever grow
    fetch_ring_rows: int
    write_back_ring_rows: int


@dataclass(frozen=True)
class ServerPlan:
    """One embedding server's part of iteration i: gather the fetches, later scatter the write-backs.

    `fetch_rows` and `write_back_rows` are *local rows* of this server's shard (int64), trainer by trainer, in the order
    of that trainer's `fetch_slots` / `write_back_slots`.
    """

    iteration: int
    fetch_rows: Int64Array
    fetch_counts: Int32Array  # (T,)
    fetch_offsets: Int64Array  # (T,) first row of each trainer's stage in this server's fetch window
    write_back_rows: Int64Array
    write_back_counts: Int32Array  # (T,)
    write_back_offsets: Int64Array  # (T,)
    fetch_ring_rows: int
    write_back_ring_rows: int


@dataclass(frozen=True)
class IterationPlan:
    """Everybody's part of iteration i."""

    iteration: int
    trainers: tuple[TrainerPlan, ...]
    servers: tuple[ServerPlan, ...]
