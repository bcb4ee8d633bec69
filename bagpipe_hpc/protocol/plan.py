"""The script of one iteration, as typed arrays: what each trainer and each embedding server does.

Schedule is data. Nothing here is asked for or negotiated while the job runs: every count, slot and stage position below
was decided by the oracle. All arrays are int32 unless said otherwise; T trainers, S servers.

**Order of a trainer's rows in an iteration.** `rows[0:num_own]` are rows it owns and uses; then one block per other
owner, in ascending trainer order, holds its replicas. Within a block, entries stand in *Gray order* of two bits,
(pushed late, gradient needed early):

    0 early push, delayed gradient      2 critical push, critical gradient
    1 early push, critical gradient     3 critical push, delayed gradient

Early pushes are thus a prefix, critical pushes a suffix, critical gradients one contiguous run: both halves of critical
and delayed synchronisation (paper section 3.3) are slices of the one list. A push is *critical* when the row was
updated in the iteration before; a gradient is *critical* when the row is used in the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NarrowArray = NDArray[np.uint16 | np.int32]  # see `narrowest`
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
KeyArray = NDArray[np.int32 | np.int64]  # int32 where all keys fit


@dataclass(frozen=True)
class TrainerPlan:
    """One trainer's part of iteration i.

    Order of play: set aside `forced` evictions; insert fetched rows; push; compute; send gradients; update; drain the
    evictions; write back.
    """

    stream_position: int  # this plan's place in the stream of plans; plans of evaluations count
    read_only: bool  # evaluation: no gradients, no updates
    num_trained: int  # training iterations of the whole job before this plan
    num_samples: int  # of this trainer's share
    num_global_samples: int  # of the whole batch: what the mean loss divides by

    # --- the share itself
    labels: Float32Array  # (num_samples,)
    dense: Float32Array  # (num_samples, num_dense)
    sample_rows: Int32Array  # (num_ids,) position in the rows of this iteration, in table order (features.py)
    bag_lengths: Int32Array  # (num_ragged * num_samples,) ids of each sample in each ragged feature, in table order
    weights: Float32Array  # (num_weighted_ids,) of the ids of the weighted features, in table order

    # --- cache insertions
    fetch_slots: Int32Array  # slots of the rows that arrive, server by server
    fetch_counts: Int32Array  # (S,) how many from each server
    fetch_offsets: Int64Array  # (S,) int64: first row of this trainer's fetch stage in each server's window

    # --- exchange with the other trainers
    num_own: int  # rows this trainer owns and uses
    update_slots: Int32Array  # (num_updated,) every row it owns that anyone uses; its own uses first, in row order
    push_index: Int32Array  # (push_counts.sum(),) positions in update_slots, destination by destination
    push_counts: Int32Array  # (T, 4) rows pushed to each trainer, by Gray class; 0 for itself
    replica_counts: Int32Array  # (T, 4) rows pushed by each trainer, by Gray class

    # --- evictions
    write_back_slots: Int32Array  # dirty rows that leave, server by server; within a server the forced ones first
    write_back_counts: Int32Array  # (S,)
    forced_counts: Int32Array  # (S,) how many of them leave before the insertions of this iteration (cache full)
    write_back_offsets: Int64Array  # (S,) int64: first row of this trainer's write-back stage in each server's window

    # --- sizes of the stage rings: rows of one ring slot, both directions; they only ever grow
    fetch_ring_rows: int
    write_back_ring_rows: int

    @property
    def num_trained_after(self) -> int:
        """Training iterations of the whole job up to and including this plan."""
        return self.num_trained + (not self.read_only)


@dataclass(frozen=True)
class ServerPlan:
    """One embedding server's part of iteration i: gather the fetches, later scatter the write-backs.

    `fetch_rows` and `write_back_rows` are *local rows* of this server's shard (int64), trainer by trainer, in the order
    of that trainer's `fetch_slots` / `write_back_slots`.
    """

    stream_position: int
    fetch_rows: Int64Array
    fetch_counts: Int32Array  # (T,)
    fetch_offsets: Int64Array  # (T,) first row of each trainer's stage in this server's fetch window
    write_back_rows: Int64Array
    write_back_counts: Int32Array  # (T,)
    write_back_offsets: Int64Array  # (T,)
    fetch_ring_rows: int
    write_back_ring_rows: int


@dataclass(frozen=True)
class SnapshotOrder:
    """Between two plans: save the state after the iterations so far. For servers the arrays are empty."""

    num_trained: int  # training iterations that are part of the state
    is_full: bool  # every touched row; else those changed since the snapshot before
    keys: Int64Array  # (n,) int64: rows in this trainer's cache, ascending
    slots: Int32Array  # (n,)
    dirty: Int32Array  # (n,) 1: differs from the server's row


@dataclass(frozen=True)
class ExchangeLists:
    """Rows of every trainer in one iteration.

    The lists stand trainer by trainer (owner by owner); `*_ends`, int64 (T + 1,), cut them.
    """

    num_own: Int32Array  # (T,) rows each trainer owns and uses
    replica_counts: Int32Array  # (T, T, 4) rows a trainer holds of an owner, by Gray class; none of its own
    unique_rows: Int32Array  # row of each unique key of a share, table by table
    unique_ends: Int64Array
    update_slots: Int32Array
    update_ends: Int64Array
    push_index: Int32Array  # within an owner's, destination by destination
    push_ends: Int64Array


class TransferLists(NamedTuple):
    """Rows that travel between trainers and servers in one iteration, in one direction.

    Args:
        counts: int64, shape (T, S).
        slots: int32, shape (counts.sum(),): trainer by trainer, then server by server.
        local_rows: int32 or int64, shape (counts.sum(),): server by server, then trainer by trainer.
    """

    counts: Int64Array
    slots: Int32Array
    local_rows: KeyArray


@dataclass(frozen=True)
class BagLists:
    """What trainers get of the bags besides rows: trainer by trainer, in table order.

    Args:
        lengths: Number of ids of each sample in each ragged feature, int64, shape (length_ends[-1],).
        length_ends: int64, shape (T + 1,): trainer t has lengths[length_ends[t]:length_ends[t + 1]].
        weights: Of the ids of the weighted features, float32, shape (weight_ends[-1],).
        weight_ends: int64, shape (T + 1,): trainer t has weights[weight_ends[t]:weight_ends[t + 1]].
    """

    lengths: Int64Array
    length_ends: Int64Array
    weights: Float32Array
    weight_ends: Int64Array


@dataclass(frozen=True)
class Samples:
    """What trainers get of the samples of an iteration besides rows, trainer by trainer.

    Args:
        labels: float32, shape (num_samples,).
        dense: float32, shape (num_samples, num_dense).
        bags: Of the ragged features.
        sample_ends: int64, shape (T + 1,): trainer t has the samples from sample_ends[t] to sample_ends[t + 1].
        read_only: Whether the samples are evaluated on: there are no gradients and no updates.
    """

    labels: Float32Array
    dense: Float32Array
    bags: BagLists
    sample_ends: Int64Array
    read_only: bool


@dataclass(frozen=True)
class IterationPlan:
    """Everybody's part of iteration i, in flat arrays: `codec.py` cuts them into one message per rank.

    Args:
        stream_position: The place of this plan in the stream of plans. Plans of evaluations count.
        num_trained: Training iterations of the whole job before this plan.
        samples: Of the whole batch.
        num_ids: int64, shape (T, num_tables): ids of each share in each table.
        inverse: uint16 or int32, shape (num_ids.sum(),), share by share, in table order (features.py): which of the
            unique keys of its share in its table an id is.
        num_uniques: int64, shape (T, num_tables): unique keys of each share in each table.
        forced_counts: int64, shape (T, S).
        fetch_offsets, write_back_offsets: int64, shape (T, S).
    """

    stream_position: int
    num_trained: int
    samples: Samples
    num_ids: Int64Array
    inverse: NarrowArray
    num_uniques: Int64Array
    exchange: ExchangeLists
    fetches: TransferLists
    fetch_offsets: Int64Array
    write_backs: TransferLists
    forced_counts: Int64Array
    write_back_offsets: Int64Array
    fetch_ring_rows: int
    write_back_ring_rows: int

    @property
    def read_only(self) -> bool:
        """Whether the samples are evaluated on."""
        return self.samples.read_only

    @property
    def num_trained_after(self) -> int:
        """Training iterations of the whole job up to and including this plan."""
        return self.num_trained + (not self.read_only)


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


def narrowest(limit: int) -> type[np.uint16] | type[np.int32]:
    """The integer type that travels for values in [0, limit)."""
    return np.uint16 if limit <= 2**16 else np.int32


def ends(counts: NDArray[Any]) -> Int64Array:
    """Where consecutive pieces of so many elements begin and end; int64, shape (len(counts) + 1,)."""
    positions = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=positions[1:])
    return positions
