"""What the oracle goes on with is held against what a job writes; whatever else a checkpoint holds is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.generation import claim_generation
from bagpipe_hpc.checkpoint.partial import PartialCheckpoint
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.lookahead.item_counts import ItemCounts
from bagpipe_hpc.lookahead.locality import AssignerState
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics
from bagpipe_hpc.oracle.plan_stream import SampleAssignment
from bagpipe_hpc.oracle.progress import History
from bagpipe_hpc.oracle.saved_state import assignment_in, evaluations_in, history_in, items_in, oracle_tree
from tests.unit.checkpoint.job import DENSE, MODEL, manifest_of

LINES = b'{"iteration": 10, "loss": 0.5, "samples_per_second": 7.0}\n'
EVALUATION = Evaluation(10, EvaluationResult(100, LabelMetrics(0.5, 0.25, None, 1.0)))
ASSIGNER_STATE = AssignerState(3, np.array([1, 5]), np.array([2 << 16 | 1, 1 << 16]))
ASSIGNMENT = SampleAssignment(ASSIGNER_STATE, (np.array([1, 0, 2], np.int32),))


def saved(
    root: Path, tree: Any, metrics: bytes = LINES, evaluations: bytes = EVALUATION.to_line().encode()
) -> Checkpoint:
    """A checkpoint that the oracle had this to save for."""
    partial = PartialCheckpoint(root, claim_generation(root), 10, MODEL.row_width)
    partial.create()
    files = [partial.write_server(0, []), partial.write_trainer(0, []), partial.write_dense(DENSE)]
    files += [partial.write_extra("metrics.jsonl", metrics), partial.write_extra("evaluations.jsonl", evaluations)]
    files.append(partial.write_oracle(tree))
    return Checkpoint.open(partial.commit(manifest_of(tuple(files))))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, oracle_tree(History(LINES, (0.5, 0.25)), ASSIGNMENT))
    assert history_in(checkpoint) == History(LINES, (0.5, 0.25))
    assert evaluations_in(checkpoint) == [EVALUATION]
    assignment = assignment_in(checkpoint)
    assert assignment is not None
    assert assignment.state.num_entries == 3
    np.testing.assert_array_equal(assignment.state.used, [1, 5])
    np.testing.assert_array_equal(assignment.orders[0], [1, 0, 2])
    assert assignment_in(saved(tmp_path / "ordered", oracle_tree(History(), None))) is None


def test_counts_of_items_come_back_in_order(tmp_path: Path) -> None:
    items = ItemCounts("item", np.array([7, 0, 2**61]), np.array([1, 5, 3]))
    found = items_in(saved(tmp_path, oracle_tree(History(), None, items)))
    assert found is not None
    assert (found.feature, found.items.tolist(), found.counts.tolist()) == ("item", [0, 7, 2**61], [5, 1, 3])
    assert items_in(saved(tmp_path / "none", oracle_tree(History(), None))) is None


def counts(**parts: Any) -> dict[str, Any]:
    known = {"feature": "item", "items": np.array([0, 7]), "counts": np.array([5, 1])}
    return {"losses": [], "placement": None, "items": {**known, **parts}}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"losses": [], "placement": None, "items": 7}, "items is not a mapping"),
        (counts(more=1), "items has other parts"),
        (counts(feature=7), "the feature of items is not a name"),
        (counts(items=np.array([0, 7], np.int32)), "items is not an int64"),
        (counts(counts=[5, 1]), "counts is not an int64"),
        (counts(counts=np.array([5])), "different lengths"),
        (counts(items=np.array([-1, 7])), "items are out of range"),
        (counts(items=np.array([7, 7])), "items do not ascend"),
        (counts(counts=np.array([5, 0])), "counts are out of range"),
        (counts(counts=np.array([5, 2**62])), "counts are out of range"),
    ],
)
def test_other_counts_are_named(tmp_path: Path, tree: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"oracle.h5 is damaged: .*{said}"):
        items_in(saved(tmp_path, tree))


def placement(**parts: Any) -> dict[str, Any]:
    return {"losses": [], "placement": {**vars(ASSIGNMENT.state), "orders": list(ASSIGNMENT.orders), **parts}}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ([], "its state is not that of an oracle"),
        (None, "its state is not that of an oracle"),
        ({"losses": []}, "its state is not that of an oracle"),
        ({"losses": 7, "placement": None}, "losses is not a list of numbers"),
        ({"losses": [0.5, "0.5"], "placement": None}, "losses is not a list of numbers"),
        ({"losses": [float("nan")], "placement": None}, "losses is not a list of numbers"),
        ({"losses": [True], "placement": None}, "losses is not a list of numbers"),
        ({"losses": [], "placement": []}, "placement is not a mapping"),
        (placement(more=1), "placement has other parts"),
        (placement(num_entries=-1), "num_entries is out of range"),
        (placement(num_entries=2**60), "num_entries is out of range"),
        (placement(used=np.array([1.0, 5.0])), "used is not an int64"),
        (placement(used=np.array([5, 1])), "used does not ascend"),
        (placement(used=np.array([-1, 5])), "used is out of range"),
        (placement(used=np.array([1, 1 << 30])), "used is out of range"),
        (placement(used=np.array([1])), "different lengths"),
        (placement(homes=np.array([1, 9])), "homes are not blocks"),
        (placement(orders=[np.array([0, 0], np.int32)]), "an order is not a permutation"),
        (placement(orders=[np.array([0, 1])]), "an order is not a permutation"),
        (placement(orders=7), "not iterable"),
    ],
)
def test_another_state_is_named(tmp_path: Path, tree: Any, said: str) -> None:
    checkpoint = saved(tmp_path, tree)
    with pytest.raises(CheckpointError, match=rf"oracle.h5 is damaged: .*{said}"):
        (history_in(checkpoint), assignment_in(checkpoint))


@pytest.mark.parametrize(
    "lines",
    [b"{", b"[]\n", b"7\n", b'{"iteration": 1}\n', LINES.replace(b"10", b'"10"'), LINES.replace(b"0.5", b"NaN")],
)
def test_other_metrics_are_named(tmp_path: Path, lines: bytes) -> None:
    checkpoint = saved(tmp_path, oracle_tree(History(), None), metrics=lines)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        history_in(checkpoint)


@pytest.mark.parametrize("line", [b"{", b"[]\n", b'{"iteration": 1}\n', b'{"iteration": true, "num_samples": 3}\n'])
def test_other_evaluations_are_named(tmp_path: Path, line: bytes) -> None:
    checkpoint = saved(tmp_path, oracle_tree(History(), None), evaluations=line)
    with pytest.raises(CheckpointError, match=r"evaluations\.jsonl is damaged"):
        evaluations_in(checkpoint)
