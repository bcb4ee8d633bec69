"""The lists of rows that an iteration of a trainer works on, all known from its plan. Pure.

The prefetch thread makes them ahead of time, so that the threads that compute and exchange only play them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.gray_blocks import (
    CRITICAL_GRADIENTS,
    CRITICAL_PUSHES,
    DELAYED_GRADIENTS,
    EARLY_PUSHES,
    EVERYTHING,
    NOTHING,
    GrayBlocks,
    Part,
)
from bagpipe_hpc.trainer.row_kernels import positions_of

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PushList:
    """The owned rows that a part of an iteration pushes.

    Args:
        slots: int32, shape (n,), receiver by receiver.
        counts: The number of rows for each trainer, int64, shape (T,).
    """

    slots: Int32Array
    counts: Int64Array


@dataclass(frozen=True)
class GradientList:
    """The owned rows that a part of an iteration updates, and the gradients of theirs that arrive.

    Args:
        positions: Positions of the n rows in TrainerPlan.update_slots, int64, shape (n,), ascending.
        slots: int32, shape (n,).
        num_own: The number of the first rows that own samples use.
        index: The row, from 0 to n - 1, of each gradient that arrives, int64, shape (m,), trainer by trainer.
        counts: The number of gradients from each trainer, int64, shape (T,).
        starts: Where the gradients of each trainer begin, int64, shape (T + 1,).
    """

    positions: Int64Array
    slots: Int32Array
    num_own: int
    index: Int64Array
    counts: Int64Array
    starts: Int64Array


@dataclass(frozen=True)
class LeavingList:
    """The rows that an iteration writes back.

    Args:
        forced_slots: Slots of the forced evictions, int32, shape (k,).
        forced_places: Their places among all rows that are written back, int64, shape (k,).
        other_slots: Slots of the other rows, int32, shape (n - k,).
        other_places: Their places; empty if no eviction is forced, and then the rows stand in their order.
    """

    forced_slots: Int32Array
    forced_places: Int64Array
    other_slots: Int32Array
    other_places: Int64Array


@dataclass(frozen=True)
class IterationLists:
    """The lists of one iteration of one trainer.

    Args:
        leaving: The rows that it writes back.
        early_pushes: The rows that `start` pushes.
        critical_pushes: The rows that `gather` pushes.
        critical: The rows that `apply` updates; none in a read-only iteration.
        delayed: The rows that `finish` updates.
        replicated: The replicas that the trainer gets.
        delayed_replicas: Positions of the replicas whose gradients `finish` sends, int64, ascending.
    """

    leaving: LeavingList
    early_pushes: PushList
    critical_pushes: PushList
    critical: GradientList
    delayed: GradientList
    replicated: GrayBlocks
    delayed_replicas: Int64Array


def lists_of(plan: TrainerPlan, *, is_overlapped: bool) -> IterationLists:
    """Return the lists of an iteration.

    Args:
        plan: The plan of the iteration.
        is_overlapped: Whether iterations overlap. If they do not, nothing is early or delayed.
    """
    pushed, replicated = GrayBlocks(plan.push_counts), GrayBlocks(plan.replica_counts)
    early, critical = (EARLY_PUSHES, CRITICAL_PUSHES) if is_overlapped else (NOTHING, EVERYTHING)
    gradients, delayed = (CRITICAL_GRADIENTS, DELAYED_GRADIENTS) if is_overlapped else (EVERYTHING, NOTHING)
    if plan.read_only:
        gradients = delayed = NOTHING
    is_delayed = _rows_of_part(pushed.edges, delayed, plan.push_index, len(plan.update_slots))
    return IterationLists(
        _leaving(plan),
        _pushes(plan, pushed, early),
        _pushes(plan, pushed, critical),
        _gradients(plan, pushed, gradients, ~is_delayed if not plan.read_only else is_delayed),
        _gradients(plan, pushed, delayed, is_delayed),
        replicated,
        positions_of(replicated.edges, delayed),
    )


def _pushes(plan: TrainerPlan, pushed: GrayBlocks, part: Part) -> PushList:
    return PushList(_push_slots(pushed.edges, part, plan.push_index, plan.update_slots), pushed.counts(part))


def _gradients(plan: TrainerPlan, pushed: GrayBlocks, part: Part, is_updated: Mask) -> GradientList:
    return GradientList(*_updates(is_updated, plan.num_own, plan.update_slots, pushed.edges, part, plan.push_index))


def _leaving(plan: TrainerPlan) -> LeavingList:
    slots = plan.write_back_slots
    if not plan.forced_counts.any():
        return LeavingList(slots[:0], np.empty(0, np.int64), slots, np.empty(0, np.int64))
    mask = _forced_mask(plan)
    forced, others = np.flatnonzero(mask), np.flatnonzero(~mask)
    return LeavingList(slots[forced], forced, slots[others], others)


def _forced_mask(plan: TrainerPlan) -> Mask:
    """Return which write-backs are forced evictions: the first `forced_counts` in the block of each server.

    Returns:
        bool, shape (len(write_back_slots),).
    """
    mask = np.zeros(len(plan.write_back_slots), dtype=np.bool_)
    start = 0
    for count, forced in zip(plan.write_back_counts.tolist(), plan.forced_counts.tolist(), strict=True):
        mask[start : start + forced] = True
        start += count
    return mask


@compiled
def _rows_of_part(edges: Int64Array, part: Part, push_index: Int32Array, num_updates: int) -> Mask:
    """Return which rows of update_slots are pushed as rows of a part, bool, shape (num_updates,)."""
    mask = np.zeros(num_updates, dtype=np.bool_)
    for trainer in range(len(edges)):
        for run in range(len(part)):
            for position in range(edges[trainer, part[run, 0]], edges[trainer, part[run, 1]]):
                mask[push_index[position]] = True
    return mask


@compiled
def _push_slots(edges: Int64Array, part: Part, push_index: Int32Array, update_slots: Int32Array) -> Int32Array:
    """Return the slots of the pushed rows of a part, int32, shape (n,)."""
    positions = positions_of(edges, part)
    slots = np.empty(len(positions), dtype=np.int32)
    for place in range(len(positions)):
        slots[place] = update_slots[push_index[positions[place]]]
    return slots


@compiled
def _updates(
    is_updated: Mask, num_own: int, update_slots: Int32Array, edges: Int64Array, part: Part, push_index: Int32Array
) -> tuple[Int64Array, Int32Array, int, Int64Array, Int64Array, Int64Array]:
    """Return the fields of a GradientList.

    Args:
        is_updated: Which rows of update_slots are in the list, bool.
        num_own: The number of rows that this trainer owns and uses itself, TrainerPlan.num_own.
        update_slots: TrainerPlan.update_slots.
        edges: Of the pushed rows, see GrayBlocks.
        part: The part whose gradients arrive.
        push_index: TrainerPlan.push_index.
    """
    num_rows = 0
    for position in range(len(is_updated)):
        num_rows += is_updated[position]
    positions, slots = np.empty(num_rows, dtype=np.int64), np.empty(num_rows, dtype=np.int32)
    places = np.empty(len(is_updated), dtype=np.int64)  # among the rows of the list
    place, own = 0, 0
    for position in range(len(is_updated)):
        if is_updated[position]:
            positions[place], slots[place] = position, update_slots[position]
            places[position] = place
            place += 1
            own += position < num_own
    index = positions_of(edges, part)
    for taken in range(len(index)):
        index[taken] = places[push_index[index[taken]]]
    counts, starts = np.zeros(len(edges), dtype=np.int64), np.zeros(len(edges) + 1, dtype=np.int64)
    for trainer in range(len(edges)):
        for run in range(len(part)):
            counts[trainer] += edges[trainer, part[run, 1]] - edges[trainer, part[run, 0]]
        starts[trainer + 1] = starts[trainer] + counts[trainer]
    return positions, slots, own, index, counts, starts
