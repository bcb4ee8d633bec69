"""The figures a run ends with, and the table that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bagpipe_hpc.config import Config
from bagpipe_hpc.oracle.committer import CheckpointTotals
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics
from bagpipe_hpc.oracle.summary import BYTES, CAUSES, COUNTERS, DELAYED_CAUSES, imbalance, show_summary, summarise
from bagpipe_hpc.protocol.totals import RankTotals, ServerTotals, TrainerTotals


def totals_of(trainer: int) -> TrainerTotals:
    return TrainerTotals(
        seconds=4.0 + trainer,
        samples=600,
        iterations=10,
        iteration_seconds=np.array([9.0, 0.25, 0.5, 0.25, 0.5, 0.25, 9.0, 9.0, 9.0, 9.0]) + trainer,
        working_seconds={"main": np.full(30, 0.002), "exchange": np.empty(0)},
        seconds_by_cause={"compute": 2.0, "cache": 1.0 + trainer},
        delayed_seconds_by_cause={"drain": 0.5},
        evaluation_seconds=0.5 + trainer,
        device="cpu",
        threads=3,
        **cast("dict[str, Any]", dict.fromkeys((*COUNTERS, *BYTES), 10 * (trainer + 1))),
    )


def summary_of(evaluation: EvaluationResult | None, evaluations: dict[str, Any] | None = None) -> dict[str, Any]:
    totals = RankTotals((ServerTotals(7), ServerTotals(5)), tuple(totals_of(trainer) for trainer in range(2)))
    return summarise(
        Config(), totals, digest="ab" * 32, loss=0.625, bytes_plans=3 * 2**20, num_trained=10,
        evaluation=evaluation, evaluations=evaluations,
    )  # fmt: skip


def test_figures_of_all_ranks_come_together() -> None:
    summary = summary_of(EvaluationResult(50, LabelMetrics(0.75, 0.5, 0.8, 1.1)))
    expected = {
        "trainers": 2, "servers": 2, "iterations": 10, "samples": 1200, "seconds": 5.0, "samples_per_second": 240.0,
        "loss": 0.625, "validation_auc": 0.75, "validation_log_loss": 0.5, "validation_samples": 50,
        "rows_touched": 12, "rows_fetched": 30, "bytes_dense": 30, "devices": ["cpu"], "threads_per_trainer": 3,
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected
    # Means over the trainers, per iteration.
    times = summary["milliseconds_per_iteration"]
    assert (times["compute"], times["cache"], times["exchange"]) == (200.0, 150.0, 0.0)
    assert list(times) == [*CAUSES, *DELAYED_CAUSES]
    assert summary["milliseconds_meanwhile"]["drain"] == 50.0
    assert summary["steady_milliseconds"] == 875.0  # of 250, 500, 250 and 1250, 1500, 1250


@pytest.mark.parametrize(("counts", "expected"), [([1, 3], 1.5), ([0, 0], 1.0), (np.array([4, 0, 2]), 2.0)])
def test_imbalance(counts: Any, expected: float) -> None:
    assert imbalance(counts) == expected


def test_it_is_json() -> None:
    summary = summary_of(EvaluationResult(50, LabelMetrics(None, 0.5, None, None)))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_no_evaluation() -> None:
    summary = summary_of(None)
    assert (summary["validation_auc"], summary["validation_log_loss"], summary["validation_samples"]) == (None, None, 0)


def test_several_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"number": 3, "metric_seconds": 0.25, "metric": "auc", "best": 0.75, "best_iteration": 1200}
    summary = summary_of(
        EvaluationResult(50, LabelMetrics(0.5, 0.5, 0.8, 1.1)), {**figures, "stopped_early": "after 9 iterations"}
    )
    assert summary["evaluations"] == {**figures, "stopped_early": "after 9 iterations", "seconds": 1.5}
    show_summary(summary, Path("runs/one"))
    output = capsys.readouterr().out
    words = ["1.5 s, and 0.2 s of metrics", "best auc", "0.7500", "after 1,200 iterations", "after 9 iterations"]
    assert [word for word in words if word not in output] == []


def test_windows(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"number": 3, "metric_seconds": 0.25, "metric": "auc", "best": 0.75, "best_iteration": 1200}
    windows = {"number": 2, "auc": 0.625, "log_loss": 0.375, "calibration": 1.0}
    show_summary(summary_of(EvaluationResult(50), {**figures, "windows": windows}), Path("runs/one"))
    output = capsys.readouterr().out
    words = ["progressive AUC", "0.6250", "mean of 2 windows", "progressive log loss", "0.3750", "1.5 s, and 0.2 s"]
    assert [word for word in words if word not in output] == []
    assert "best" not in output


@pytest.mark.parametrize(
    ("evaluation", "shown", "hidden"),
    [
        (
            EvaluationResult(50, LabelMetrics(0.75, 0.5, 0.8, 1.1)),
            ["validation AUC", "0.7500", "50 samples", "0.8000", "1.1000"],
            ["undefined"],
        ),
        (EvaluationResult(50, LabelMetrics(None, 0.5, None, None)), ["validation AUC", "undefined", "0.5000"], []),
        (None, [], ["validation"]),
    ],
)
def test_the_table_shows_the_figures(
    evaluation: EvaluationResult | None, shown: list[str], hidden: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    show_summary(summary_of(evaluation), Path("runs/one"))
    output = capsys.readouterr().out
    shown = [*shown, "dlrm, cached", "0.6250", "200.00 ms", "57%", "rows pushed", "30.0 B"]
    shown += [
        "mean: 1,200 samples, 10 iterations in 5.0 s",
        "3.0 MiB",
        "model digest " + "ab" * 32,
        "run directory runs/one",
        *CAUSES.values(),
        "while an iteration computes",
    ]
    assert [word for word in shown if word not in output] == []
    assert [word for word in hidden if word in output] == []


def test_no_label_stands_twice(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(None)
    summary["milliseconds_meanwhile"] = dict.fromkeys({**CAUSES, **DELAYED_CAUSES}, 1.0)
    summary["milliseconds_per_iteration"] = dict.fromkeys({**CAUSES, **DELAYED_CAUSES}, 1.0)
    show_summary(summary, Path("run"))
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert sorted(set(rows)) == sorted(rows)


def test_checkpoints_written_after_training_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(None)
    totals = CheckpointTotals(written=2, write_seconds=43.5, seconds_after_training=40.25, stall_seconds=0.0006)
    summary["checkpoints"] = totals.as_dict()
    show_summary(summary, Path("run"))
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "written in 3.2 s during training, 40.2 s after it" in output
    assert "checkpoint stall 0.6 ms training was held up by all checkpoints" in output
