"""The script of one iteration, as typed arrays: what each trainer and each embedding server does.

The oracle decides every count, slot and stage position in advance, and writes it here. While the job runs, no rank asks
another one for any of it. There are T trainers and S servers.

**Order of a trainer's rows in an iteration.** First come the rows that the trainer owns and uses itself, `num_own` of
them. Then, in ascending order of the other trainers, comes one block of replicas for each of them: the rows that this
trainer uses and the other one owns. Within a block, rows are in *Gray order*, that is, by their *Gray class*, the Gray
code of two bits:

    class   push       gradient
    0       early      delayed
    1       early      critical
    2       critical   critical
    3       critical   delayed

A push is *critical* when the row was updated in the iteration before; otherwise it is *early*. A gradient is *critical*
when the row is used in the next iteration; otherwise it is *delayed*. In Gray order the early pushes are the first part
of a block, the critical pushes its last part, and the critical gradients one run in its middle. So the halves of
critical and delayed synchronisation (paper section 3.3) are slices of the same list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NarrowArray = NDArray[np.uint16 | np.int32]  # see `narrowest`
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
KeyArray = NDArray[np.int32 | np.int64]  # int32 where all keys fit


@dataclass(frozen=True)
class TrainerPlan:
    """The part of one trainer in an iteration.

    The trainer plays it in this order: it reads the rows of forced evictions, inserts fetched rows, pushes rows,
    computes, sends gradients, updates rows, reads the rows of the other evictions, and writes all of them back.

    Args:
        stream_position: The place of this plan in the stream of plans. Plans of evaluations count.
        read_only: Whether the samples are evaluated on: there are no gradients and no updates.
        num_trained: Training iterations of the whole job before this plan.
        num_samples: Number of this trainer's samples.
        num_global_samples: Number of samples of the whole batch.
        labels: float32, shape (num_samples,) or (num_samples, num_labels), as in Batch.
        dense: float32, shape (num_samples, num_dense).
        sample_rows: Position of the row of each id among this trainer's rows, int32, shape (num_ids,), in table order
            (lookahead/features.py).
        bag_lengths: Number of ids of each sample in each ragged feature, int32, shape (num_ragged * num_samples,), in
            table order.
        weights: The real values of ids, float32, shape (num_reals,), feature by feature in table order, within a
            feature value by value: the weights of weighted features, and the real elements of sequences.
        fetch_slots: Slots of the fetched rows, int32, shape (fetch_counts.sum(),), server by server.
        fetch_counts: Number of rows fetched from each server, int32, shape (S,).
        fetch_offsets: First row of this trainer's fetch stage in each server's window, int64, shape (S,).
        num_own: Number of rows that this trainer owns and uses itself.
        update_slots: Slots of the rows that this trainer owns and any trainer uses, int32, shape (num_updated,). The
            rows that it uses itself come first, in their order.
        push_index: Positions in update_slots of the pushed rows, int32, shape (push_counts.sum(),), receiver by
            receiver.
        push_counts: Number of rows pushed to each trainer, by Gray class, int32, shape (T, 4); 0 for itself.
        replica_counts: Number of replicas pushed by each trainer, by Gray class, int32, shape (T, 4); 0 for itself.
        write_back_slots: Slots of the evicted dirty rows, int32, shape (write_back_counts.sum(),), server by server;
            within a server, forced evictions come first.
        write_back_counts: Number of rows written back to each server, int32, shape (S,).
        forced_counts: Number of forced evictions among them, int32, shape (S,). They make room for fetched rows.
        write_back_offsets: First row of this trainer's write-back stage in each server's window, int64, shape (S,).
        fetch_ring_rows: Number of rows of one slot of the fetch rings. It never falls from plan to plan.
        write_back_ring_rows: Number of rows of one slot of the write-back rings. It never falls from plan to plan.
        sample_weights: float32, shape (num_samples,); shape (0,) if samples have no weights.
        groups: The group of each sample, int64, shape (num_samples,); shape (0,) if samples have no groups.
        loss_divisors: For each label, the weights of all samples of the batch that have it, added up, float64, shape
            (num_labels,). The mean loss divides by them. Shape (0,): labels are plain (Schema.has_plain_labels), and
            the mean loss divides by the number of samples.
        integers: The integer values of ids, int64, shape (num_integers,), in the order of `weights`: the integer
            elements of sequences.
        born_slots: Slots of the rows that begin anew, int32, shape (num_born,). The trainer makes them.
        born_tables: The table of each of them, int32, shape (num_born,).
        born_ids: The id of each of them, which its initial value depends on, int64, shape (num_born,).
        item_counts: How many training samples so far, those of this iteration included, have the item of each sample,
            int64, shape (num_samples,). Shape (0,): the plan is read-only, or the job does not count items.
        positive_weights: For each label, the weights of all samples of the batch for which it is 1, added up, float64,
            shape (num_labels,). Shape (0,): as item_counts.
    """

    stream_position: int
    read_only: bool
    num_trained: int
    num_samples: int
    num_global_samples: int

    labels: Float32Array
    dense: Float32Array
    sample_rows: Int32Array
    bag_lengths: Int32Array
    weights: Float32Array

    fetch_slots: Int32Array
    fetch_counts: Int32Array
    fetch_offsets: Int64Array

    num_own: int
    update_slots: Int32Array
    push_index: Int32Array
    push_counts: Int32Array
    replica_counts: Int32Array

    write_back_slots: Int32Array
    write_back_counts: Int32Array
    forced_counts: Int32Array
    write_back_offsets: Int64Array

    fetch_ring_rows: int
    write_back_ring_rows: int

    sample_weights: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    groups: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    loss_divisors: Float64Array = field(default_factory=lambda: np.empty(0, np.float64))
    integers: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    born_slots: Int32Array = field(default_factory=lambda: np.empty(0, np.int32))
    born_tables: Int32Array = field(default_factory=lambda: np.empty(0, np.int32))
    born_ids: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    item_counts: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    positive_weights: Float64Array = field(default_factory=lambda: np.empty(0, np.float64))

    @property
    def inserted_slots(self) -> Int32Array:
        """Slots of the rows that come into the cache: those of the fetched rows, then those of the born ones."""
        return np.concatenate([self.fetch_slots, self.born_slots]) if len(self.born_slots) else self.fetch_slots

    @property
    def num_trained_after(self) -> int:
        """Training iterations of the whole job up to and including this plan."""
        return self.num_trained + (not self.read_only)


@dataclass(frozen=True)
class ServerPlan:
    """The part of one embedding server in an iteration: gather the fetched rows, later scatter the written-back rows.

    A *local row* is the position of a row in the server's shard.

    Args:
        stream_position: The place of this plan in the stream of plans.
        fetch_rows: Local rows, int64, shape (fetch_counts.sum(),), trainer by trainer, in the order of that trainer's
            `fetch_slots`.
        fetch_counts: Number of rows that each trainer fetches, int32, shape (T,).
        fetch_offsets: First row of each trainer's stage in this server's fetch window, int64, shape (T,).
        write_back_rows: Local rows, int64, shape (write_back_counts.sum(),), trainer by trainer, in the order of that
            trainer's `write_back_slots`.
        write_back_counts: Number of rows that each trainer writes back, int32, shape (T,).
        write_back_offsets: First row of each trainer's stage in this server's write-back window, int64, shape (T,).
        fetch_ring_rows: As in TrainerPlan.
        write_back_ring_rows: As in TrainerPlan.
    """

    stream_position: int
    fetch_rows: Int64Array
    fetch_counts: Int32Array
    fetch_offsets: Int64Array
    write_back_rows: Int64Array
    write_back_counts: Int32Array
    write_back_offsets: Int64Array
    fetch_ring_rows: int
    write_back_ring_rows: int


@dataclass(frozen=True)
class SnapshotOrder:
    """The order to save the state after the iterations so far. It comes between two plans.

    Args:
        num_trained: Training iterations that are part of the state.
        is_full: Whether servers save every touched row; else only rows that changed since the snapshot before.
        keys: Rows in this trainer's cache, int64, shape (n,), ascending; for servers n is 0.
        slots: Slot of each of these rows, int32, shape (n,).
        dirty: 1 where the row differs from the server's, else 0, int32, shape (n,).
    """

    num_trained: int
    is_full: bool
    keys: Int64Array
    slots: Int32Array
    dirty: Int32Array


@dataclass(frozen=True)
class ExchangeLists:
    """The rows that all trainers use in one iteration.

    Args:
        num_own: Number of rows that each trainer owns and uses itself, int32, shape (T,).
        replica_counts: replica_counts[t, o] are the numbers of replicas at trainer t of rows of owner o, by Gray class,
            int32, shape (T, T, 4); 0 where t is o.
        unique_rows: Position of each unique key of a trainer among the rows of that trainer, int32,
            shape (unique_ends[-1],), trainer by trainer, within a trainer table by table.
        unique_ends: int64, shape (T + 1,): trainer t has unique_rows[unique_ends[t]:unique_ends[t + 1]].
        update_slots: As in TrainerPlan, int32, shape (update_ends[-1],), owner by owner.
        update_ends: int64, shape (T + 1,): owner o has update_slots[update_ends[o]:update_ends[o + 1]].
        push_index: As in TrainerPlan, int32, shape (push_ends[-1],), owner by owner.
        push_ends: int64, shape (T + 1,): owner o has push_index[push_ends[o]:push_ends[o + 1]].
    """

    num_own: Int32Array
    replica_counts: Int32Array
    unique_rows: Int32Array
    unique_ends: Int64Array
    update_slots: Int32Array
    update_ends: Int64Array
    push_index: Int32Array
    push_ends: Int64Array


class TransferLists(NamedTuple):
    """The rows that travel between trainers and servers in one iteration, in one direction.

    Args:
        counts: Number of rows of each trainer and server, int64, shape (T, S).
        slots: Slots in the trainers' caches, int32, shape (counts.sum(),), trainer by trainer, within a trainer server
            by server.
        local_rows: Positions in the servers' shards, int32 or int64, shape (counts.sum(),), server by server, within a
            server trainer by trainer.
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
        weights: The real values of ids, as in TrainerPlan, float32, shape (weight_ends[-1],).
        weight_ends: int64, shape (T + 1,): trainer t has weights[weight_ends[t]:weight_ends[t + 1]].
        integers: The integer values of ids, as in TrainerPlan, int64, shape (integer_ends[-1],).
        integer_ends: int64, shape (T + 1,): trainer t has integers[integer_ends[t]:integer_ends[t + 1]].
    """

    lengths: Int64Array
    length_ends: Int64Array
    weights: Float32Array
    weight_ends: Int64Array
    integers: Int64Array
    integer_ends: Int64Array


@dataclass(frozen=True)
class Samples:
    """What trainers get of the samples of an iteration besides rows, trainer by trainer.

    Args:
        labels: float32, shape (num_samples,) or (num_samples, num_labels), as in Batch.
        dense: float32, shape (num_samples, num_dense).
        bags: Of the ragged features.
        sample_ends: int64, shape (T + 1,): trainer t has the samples from sample_ends[t] to sample_ends[t + 1].
        read_only: Whether the samples are evaluated on: there are no gradients and no updates.
        sample_weights, groups, loss_divisors, item_counts, positive_weights: As in TrainerPlan, of the whole batch.
    """

    labels: Float32Array
    dense: Float32Array
    bags: BagLists
    sample_ends: Int64Array
    read_only: bool
    sample_weights: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    groups: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    loss_divisors: Float64Array = field(default_factory=lambda: np.empty(0, np.float64))
    item_counts: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    positive_weights: Float64Array = field(default_factory=lambda: np.empty(0, np.float64))

    def ends_of(self, column: NDArray[Any]) -> Int64Array:
        """Return where the part of each trainer ends in a column that may be empty, int64, shape (T + 1,)."""
        return self.sample_ends if len(column) else np.zeros_like(self.sample_ends)


@dataclass(frozen=True)
class BornRows:
    """The rows of an iteration that begin anew, trainer by trainer.

    Args:
        slots: Slot in the cache of the owner, int32, shape (n,).
        tables, ids: As in TrainerPlan, int64, shape (n,).
        owner_ends: int64, shape (T + 1,): trainer t has the rows from owner_ends[t] to owner_ends[t + 1].
    """

    slots: Int32Array
    tables: Int64Array
    ids: Int64Array
    owner_ends: Int64Array


@dataclass(frozen=True)
class IterationPlan:
    """The parts of all ranks in an iteration, in flat arrays. `codec.py` cuts them into one message per rank.

    Args:
        stream_position: The place of this plan in the stream of plans. Plans of evaluations count.
        num_trained: Training iterations of the whole job before this plan.
        samples: Of the whole batch.
        num_ids: Number of ids of each trainer's samples in each table, int64, shape (T, num_tables).
        inverse: Which of the unique keys of its trainer in its table an id is, uint16 or int32, shape (num_ids.sum(),),
            trainer by trainer, within a trainer table by table.
        num_uniques: Number of unique keys of each trainer in each table, int64, shape (T, num_tables).
        exchange: Rows that trainers push to each other.
        fetches: Rows that trainers fetch from servers.
        fetch_offsets: First row of each fetch stage in its server's window, int64, shape (T, S).
        write_backs: Rows that trainers send to servers.
        forced_counts: Number of forced evictions of each trainer and server, int64, shape (T, S).
        write_back_offsets: First row of each write-back stage in its server's window, int64, shape (T, S).
        fetch_ring_rows: As in TrainerPlan.
        write_back_ring_rows: As in TrainerPlan.
        born: The rows that begin anew; None: none.
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
    born: BornRows | None = None

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
    """The n rows in the caches of all trainers, trainer by trainer, within a trainer by ascending key.

    Args:
        keys: int64, shape (n,).
        slots: int32, shape (n,).
        dirty: Whether the row differs from the server's, bool, shape (n,).
        owner_ends: int64, shape (T + 1,): trainer t has the rows from owner_ends[t] to owner_ends[t + 1].
    """

    keys: Int64Array
    slots: Int32Array
    dirty: NDArray[np.bool_]
    owner_ends: Int64Array

    @classmethod
    def none(cls, num_trainers: int) -> Residents:
        """Return empty caches."""
        keys, slots, dirty = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.bool_)
        return cls(keys, slots, dirty, np.zeros(num_trainers + 1, np.int64))

    def of(self, trainer: int) -> slice:
        """Return the slice of the arrays that has the rows of a trainer."""
        return slice(int(self.owner_ends[trainer]), int(self.owner_ends[trainer + 1]))

    @property
    def owners(self) -> Int32Array:
        """The trainer of each row, int32, shape (n,)."""
        return np.repeat(np.arange(len(self.owner_ends) - 1, dtype=np.int32), np.diff(self.owner_ends))


def narrowest(limit: int) -> type[np.uint16] | type[np.int32]:
    """Return the narrower of uint16 and int32 that holds all values in [0, limit)."""
    return np.uint16 if limit <= 2**16 else np.int32


def ends(counts: NDArray[Any]) -> Int64Array:
    """Return where consecutive pieces of an array begin and end.

    Args:
        counts: Number of elements of each piece, integers, shape (n,).
    Returns:
        int64, shape (n + 1,): piece k has the elements from returned[k] to returned[k + 1].
    """
    positions = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=positions[1:])
    return positions
