"""What the oracle alone saves in a checkpoint: losses that are in no line of metrics.jsonl yet, and the placement of
samples; also metrics.jsonl and evaluations.jsonl. What is read back is held against what a job writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from bagpipe_hpc.bounded_json import load_json
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.file_names import EVALUATIONS_FILE, METRICS_FILE, ORACLE_FILE
from bagpipe_hpc.checkpoint.hdf5 import damaged
from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.lookahead.locality import HOME_MASK, NUM_BUCKETS, PlacementState
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.plan_stream import Placed
from bagpipe_hpc.oracle.progress import History

_MAX_ENTRIES = 2**46


def oracle_tree(history: History, placed: Placed | None) -> Tree:
    """What is saved."""
    placement = None
    if placed is not None:
        placement = {**vars(placed.state), "orders": placed.orders}
    return {"losses": list(history.losses), "placement": placement}


def history_in(checkpoint: Checkpoint) -> History:
    """Metrics of the iterations before the checkpoint.

    Raises:
        CheckpointError: they are not what a job writes.
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
        _require(isinstance(losses, list) and all(map(_is_loss, losses)), "losses are no list of numbers")
        return History(lines, tuple(losses))


def placed_in(checkpoint: Checkpoint) -> Placed | None:
    """Placement of the samples after the checkpoint; None where they stay in order.

    Raises:
        CheckpointError: it is not what a job writes.
    """
    state = _state_in(checkpoint)
    if state is None:
        return None
    with _content_of(checkpoint.path / ORACLE_FILE):
        placement = state["placement"]
        if placement is None:
            return None
        _require(isinstance(placement, dict), "placement is no mapping")
        parts = dict(placement)
        orders = parts.pop("orders")
        _require(parts.keys() == {field.name for field in fields(PlacementState)}, "placement has other parts")
        placed = Placed(PlacementState(**parts), tuple(orders))
        _require_placed(placed, checkpoint.manifest.topology.trainers)
        return placed


def evaluations_in(checkpoint: Checkpoint) -> list[Evaluation]:
    """Evaluations before the checkpoint.

    Raises:
        CheckpointError: they are not what a job writes.
    """
    if all(entry.name != EVALUATIONS_FILE for entry in checkpoint.manifest.files):
        return []
    lines = checkpoint.extra(EVALUATIONS_FILE)
    with _content_of(checkpoint.path / EVALUATIONS_FILE):
        return [Evaluation.from_line(line) for line in lines.splitlines()]


def _state_in(checkpoint: Checkpoint) -> dict[str, Any] | None:
    state = checkpoint.oracle_state()
    with _content_of(checkpoint.path / ORACLE_FILE):
        is_saved = any(entry.name == ORACLE_FILE for entry in checkpoint.manifest.files)
        is_known = isinstance(state, dict) and state.keys() == {"losses", "placement"}
        _require(is_known or not is_saved, "its state is not that of an oracle")
    return None if state is None else dict(state)


def _require_metrics(line: Any) -> None:
    expected = {"iteration", "loss", "samples_per_second"}
    _require(isinstance(line, dict) and line.keys() >= expected, f"a line has not all of {', '.join(sorted(expected))}")
    _require(type(line["iteration"]) is int and line["iteration"] >= 0, "an iteration is no number of iterations")
    _require(_is_loss(line["loss"]) and _is_loss(line["samples_per_second"]), "a loss or a rate is no number")


def _is_loss(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_placed(placed: Placed, num_trainers: int) -> None:
    state = placed.state
    _require(type(state.num_entries) is int and 0 < state.num_entries < _MAX_ENTRIES, "num_entries is out of range")
    for name, array in (("used", state.used), ("homes", state.homes)):
        _require(
            isinstance(array, np.ndarray) and array.dtype == np.int64 and array.ndim == 1, f"{name} is no int64 (n,)"
        )
    used, homes = state.used, state.homes
    _require(len(used) == len(homes), "used and homes have different lengths")
    _require(not len(used) or (used[0] >= 0 and used[-1] < NUM_BUCKETS), "used is out of range")
    _require(not (np.diff(used) <= 0).any(), "used does not ascend")
    _require(not (homes < 0).any() and not ((homes & HOME_MASK) > num_trainers).any(), "homes are no trainers")
    for order in placed.orders:
        is_order = isinstance(order, np.ndarray) and order.dtype == np.int32 and order.ndim == 1
        _require(is_order and np.array_equal(np.sort(order), np.arange(len(order))), "an order is no permutation")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)


@contextmanager
def _content_of(path: Path) -> Iterator[None]:
    """Errors of wrong content inside the block name the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise damaged(path, " ".join(str(error).split()) or type(error).__name__) from error
