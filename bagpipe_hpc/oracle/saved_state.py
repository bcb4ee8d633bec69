"""The state of the oracle in a checkpoint.

The oracle saves metrics.jsonl, the losses that are in no line of it yet, evaluations.jsonl, the state of the assignment
of samples and, if the job counts items, how often each has occurred. Reading checks that the content is one that a job
writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from bagpipe_hpc.bounded_json import load_json
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.file_names import EVALUATIONS_FILE, METRICS_FILE, ORACLE_FILE
from bagpipe_hpc.checkpoint.hdf5 import damaged
from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.lookahead.item_counts import ItemCounts
from bagpipe_hpc.lookahead.locality import HOME_MASK, NUM_BUCKETS, AssignerState
from bagpipe_hpc.oracle.dynamic_tables import DynamicTablesState
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.plan_stream import Boundary, SampleAssignment
from bagpipe_hpc.oracle.progress import History
from bagpipe_hpc.oracle.saved_ids import ids_of_tree, tree_of_ids
from bagpipe_hpc.protocol.plan import Residents, ends
from bagpipe_hpc.runtime.starting_point import StartingPoint

_MAX_ENTRIES = 2**46
_PARTS = {"losses", "placement", "items", "dynamic"}


@dataclass(frozen=True)
class SavedState:
    """The state of the oracle in the checkpoint that a job goes on from.

    Args:
        history: The metrics of the iterations before the checkpoint.
        evaluations: The evaluations before the checkpoint.
        boundary: The boundary at the checkpoint. None: the caches start empty, and so does the assignment of samples.
    """

    history: History = field(default_factory=History)
    evaluations: tuple[Evaluation, ...] = ()
    boundary: Boundary | None = None

    @classmethod
    def read(
        cls, start: StartingPoint, num_trainers: int, num_blocks: int | None, *, evaluates_only: bool = False
    ) -> SavedState:
        """Read the checkpoint that a job goes on from. If the job starts afresh, return an empty state.

        Args:
            start: Where the job begins.
            num_trainers: T.
            num_blocks: The setting training.blocks.
            evaluates_only: Whether the job only evaluates. It has a run directory of its own, so the result has no
                history of metrics.
        Raises:
            CheckpointError: the content of a file of the checkpoint is not one that a job writes.
        Communication: none.
        """
        checkpoint = start.checkpoint
        if checkpoint is None:
            return cls()
        history, assignment, items = history_in(checkpoint), assignment_in(checkpoint), items_in(checkpoint)
        dynamic = dynamic_in(checkpoint)
        boundary = None
        keeps_blocks = num_blocks_in(checkpoint) == (num_blocks or num_trainers)
        if start.keeps_caches or keeps_blocks or items is not None or dynamic is not None:
            residents = _residents_in(checkpoint) if start.keeps_caches else Residents.none(num_trainers)
            kept = assignment if keeps_blocks else None
            later = (lambda: dynamic) if dynamic is not None else None
            boundary = Boundary(start.position.num_trained, residents, kept, items=items, dynamic=later)
        evaluations = tuple(evaluations_in(checkpoint))
        return cls(History() if evaluates_only else history, evaluations, boundary)


def oracle_tree(
    history: History,
    assignment: SampleAssignment | None,
    items: ItemCounts | None = None,
    dynamic: DynamicTablesState | None = None,
    since: int | None = None,
) -> Tree:
    """Return the tree that a checkpoint saves, beside metrics.jsonl and evaluations.jsonl.

    If it is an increment, it builds on the checkpoint after `since` training iterations.
    """
    placement = None
    if assignment is not None:
        placement = {**vars(assignment.state), "orders": assignment.orders}
    counts = {} if items is None else {"items": dict(vars(items.in_order()))}
    ids = {} if dynamic is None else {"dynamic": tree_of_ids(dynamic, since)}
    return {"losses": list(history.losses), "placement": placement, **counts, **ids}


def history_in(checkpoint: Checkpoint) -> History:
    """Return the metrics of the iterations before the checkpoint.

    Raises:
        CheckpointError: the content of a file is not one that a job writes.
    """
    state = _state_in(checkpoint)
    if state is None:
        return History()
    lines = checkpoint.extra(METRICS_FILE)
    with _content_of(checkpoint.path / METRICS_FILE):
        for line in lines.splitlines():
            _require_metrics(load_json(line))
    with _content_of(checkpoint.path / ORACLE_FILE):
        losses = state["losses"]
        _require(isinstance(losses, list) and all(map(_is_loss, losses)), "losses is not a list of numbers")
        return History(lines, tuple(losses))


def assignment_in(checkpoint: Checkpoint) -> SampleAssignment | None:
    """Return the assignment of the samples after the checkpoint; None if samples stay in order.

    Raises:
        CheckpointError: the content of a file is not one that a job writes.
    """
    state = _state_in(checkpoint)
    if state is None:
        return None
    with _content_of(checkpoint.path / ORACLE_FILE):
        placement = state["placement"]
        if placement is None:
            return None
        _require(isinstance(placement, dict), "placement is not a mapping")
        parts = dict(placement)
        orders = parts.pop("orders")
        _require(parts.keys() == {field.name for field in fields(AssignerState)}, "placement has other parts")
        assignment = SampleAssignment(AssignerState(**parts), tuple(orders))
        _require_assignment(assignment, num_blocks_in(checkpoint))
        return assignment


def items_in(checkpoint: Checkpoint) -> ItemCounts | None:
    """Return how often each item occurred before the checkpoint; None if its job did not count items.

    Raises:
        CheckpointError: the content of a file is not one that a job writes.
    """
    state = _state_in(checkpoint)
    if state is None or "items" not in state:
        return None
    with _content_of(checkpoint.path / ORACLE_FILE):
        parts = state["items"]
        _require(isinstance(parts, dict), "items is not a mapping")
        _require(parts.keys() == {field.name for field in fields(ItemCounts)}, "items has other parts")
        items = ItemCounts(**parts)
        _require_items(items)
        return items


def dynamic_in(checkpoint: Checkpoint) -> DynamicTablesState | None:
    """Return the ids of dynamic tables at the checkpoint; None if its job had no such tables.

    Raises:
        CheckpointError: the content of a file is not one that a job writes.
    """
    found: DynamicTablesState | None = None
    for length in range(1, len(checkpoint.chain) + 1):
        part = Checkpoint(checkpoint.chain[:length])
        state = _state_in(part)
        if state is None or "dynamic" not in state:
            return None
        with _content_of(part.path / ORACLE_FILE):
            found = ids_of_tree(state["dynamic"], part.manifest.iteration, found)
    return found


def training_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the section training of the settings of a checkpoint's job; empty if the manifest has none."""
    training = checkpoint.manifest.config.get("training")
    return training if isinstance(training, dict) else {}


def setting_of_blocks(checkpoint: Checkpoint) -> int | None:
    """Return training.blocks of the job of a checkpoint."""
    blocks = training_settings(checkpoint).get("blocks")
    return blocks if isinstance(blocks, int) else None


def num_blocks_in(checkpoint: Checkpoint) -> int:
    """Return how many blocks the job of a checkpoint cut each batch into."""
    return setting_of_blocks(checkpoint) or checkpoint.manifest.topology.trainers


def evaluations_in(checkpoint: Checkpoint) -> list[Evaluation]:
    """Return the evaluations before the checkpoint.

    Raises:
        CheckpointError: the content of a file is not one that a job writes.
    """
    if all(entry.name != EVALUATIONS_FILE for entry in checkpoint.manifest.files):
        return []
    lines = checkpoint.extra(EVALUATIONS_FILE)
    with _content_of(checkpoint.path / EVALUATIONS_FILE):
        return [Evaluation.from_line(line) for line in lines.splitlines()]


def _residents_in(checkpoint: Checkpoint) -> Residents:
    caches = [list(checkpoint.cached_slots(trainer)) for trainer in range(checkpoint.manifest.topology.trainers)]
    pieces = [piece for cache in caches for piece in cache]
    return Residents(
        np.concatenate([np.empty(0, np.int64), *(piece.keys for piece in pieces)]),
        np.concatenate([np.empty(0, np.int32), *(piece.slots for piece in pieces)]),
        np.concatenate([np.empty(0, np.bool_), *(piece.dirty for piece in pieces)]),
        ends(np.array([sum(len(piece.keys) for piece in cache) for cache in caches])),
    )


def _state_in(checkpoint: Checkpoint) -> dict[str, Any] | None:
    state = checkpoint.oracle_state()
    with _content_of(checkpoint.path / ORACLE_FILE):
        is_saved = any(entry.name == ORACLE_FILE for entry in checkpoint.manifest.files)
        is_known = isinstance(state, dict) and {"losses", "placement"} <= state.keys() <= _PARTS
        _require(is_known or not is_saved, "its state is not that of an oracle")
    return None if state is None else dict(state)


def _require_metrics(line: Any) -> None:
    expected = {"iteration", "loss", "samples_per_second"}
    _require(isinstance(line, dict) and line.keys() >= expected, f"a line lacks one of {', '.join(sorted(expected))}")
    _require(type(line["iteration"]) is int and line["iteration"] >= 0, "an iteration is not a whole number >= 0")
    _require(_is_loss(line["loss"]) and _is_loss(line["samples_per_second"]), "a loss or a rate is not a finite number")


def _is_loss(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_assignment(assignment: SampleAssignment, num_blocks: int) -> None:
    state = assignment.state
    _require(type(state.num_entries) is int and 0 < state.num_entries < _MAX_ENTRIES, "num_entries is out of range")
    _require_column("used", state.used)
    _require_column("homes", state.homes)
    used, homes = state.used, state.homes
    _require(len(used) == len(homes), "used and homes have different lengths")
    _require(not len(used) or (used[0] >= 0 and used[-1] < NUM_BUCKETS), "used is out of range")
    _require(not (np.diff(used) <= 0).any(), "used does not ascend")
    _require(not (homes < 0).any() and not ((homes & HOME_MASK) > num_blocks).any(), "homes are not blocks")
    for order in assignment.orders:
        is_order = isinstance(order, np.ndarray) and order.dtype == np.int32 and order.ndim == 1
        _require(is_order and np.array_equal(np.sort(order), np.arange(len(order))), "an order is not a permutation")


def _require_items(items: ItemCounts) -> None:
    _require(isinstance(items.feature, str), "the feature of items is not a name")
    _require_column("items", items.items)
    _require_column("counts", items.counts)
    _require(len(items.items) == len(items.counts), "items and counts have different lengths")
    _require(not len(items.items) or items.items[0] >= 0, "items are out of range")
    _require(not (np.diff(items.items) <= 0).any(), "items do not ascend")
    _require(not (items.counts < 1).any() and not (items.counts >= _MAX_ENTRIES).any(), "counts are out of range")


def _require_column(name: str, array: Any) -> None:
    is_column = isinstance(array, np.ndarray) and array.dtype == np.int64 and array.ndim == 1
    _require(is_column, f"{name} is not an int64 array of shape (n,)")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)


@contextmanager
def _content_of(path: Path) -> Iterator[None]:
    """Turn errors of wrong content inside the block into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise damaged(path, " ".join(str(error).split()) or type(error).__name__) from error
