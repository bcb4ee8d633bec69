"""Progress lines and metrics.jsonl, by an injected clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.config import load_config
from bagpipe_hpc.oracle.dynamic_tables import TableFigures
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics
from bagpipe_hpc.oracle.progress import METRICS_EVERY, SECONDS_PER_LINE, History, Progress
from bagpipe_hpc.oracle.progress_line import ProgressLine
from bagpipe_hpc.topology import Topology

CONFIG = load_config(None, ["training.batch_size=100"])


class Clock:
    """Seconds as told."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def metrics(run_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_path / "metrics.jsonl").read_text().splitlines()]


def test_it_says_what_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(tmp_path, 1234, CONFIG, Topology(4, 2)):
        pass
    words = ["dlrm", "cached", "1 trainer", "2 embedding server", "1,234 iterations of 100 samples"]
    line, *others = capsys.readouterr().out.splitlines()
    assert [word for word in words if word not in line] == []
    assert others == []
    assert metrics(tmp_path) == []


def test_a_job_that_only_evaluates_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(tmp_path, 200, CONFIG, Topology(4, 2), clock, start=200, to_evaluate=(11000, 43)) as progress:
        clock.seconds += SECONDS_PER_LINE
        progress.refresh((300, 11000))
    assert capsys.readouterr().out.splitlines() == [
        "evaluating 11,000 samples in 43 batches: dlrm (cached), 1 trainer(s), 2 embedding server(s)",
        "evaluating 300/11,000 samples",
    ]


def test_metrics_are_means_of_their_iterations(tmp_path: Path) -> None:
    clock = Clock()
    with Progress(tmp_path, 50, CONFIG, Topology(3, 1), clock) as progress:
        for iteration in range(2 * METRICS_EVERY + 5):
            clock.seconds += 0.5 if iteration < METRICS_EVERY else 0.25
            progress.advance(iteration + 1, loss=float(iteration), num_samples=100)
    assert metrics(tmp_path) == [
        {"iteration": 20, "loss": 9.5, "samples_per_second": 200.0},
        {"iteration": 40, "loss": 29.5, "samples_per_second": 400.0},
        {"iteration": 45, "loss": 42.0, "samples_per_second": 400.0},
    ]
    assert progress.last_loss == 42.0


def test_metrics_are_on_disk_while_the_job_runs(tmp_path: Path) -> None:
    with Progress(tmp_path, 50, CONFIG, Topology(3, 1), Clock()) as progress:
        for iteration in range(METRICS_EVERY):
            progress.advance(iteration + 1, 0.5, 100)
        assert len(metrics(tmp_path)) == 1


def test_a_start_with_nothing_left_to_train_keeps_the_figures_of_tables(tmp_path: Path) -> None:
    history, figures = History(losses=(0.5,)), TableFigures(live=3)
    with Progress(tmp_path, 1, CONFIG, Topology(3, 1), Clock(), 1, history, tables={"user": figures}):
        pass
    (line,) = metrics(tmp_path)
    assert line["dynamic_tables"]["user"]["live"] == 3


def test_an_earlier_incarnation_writes_no_metrics_any_more(tmp_path: Path) -> None:
    with (
        Progress(tmp_path, 50, CONFIG, Topology(3, 1), Clock()) as old,
        Progress(tmp_path, 50, CONFIG, Topology(3, 1), Clock()) as new,
    ):
        for iteration in range(20):
            new.advance(iteration + 1, 1.0, 8)
            old.advance(iteration + 1, 2.0, 8)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == 1.0


def test_metrics_survive_a_failure(tmp_path: Path) -> None:
    def run() -> None:
        with Progress(tmp_path, 50, CONFIG, Topology(3, 1), Clock()) as progress:
            progress.advance(1, 0.5, 100)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run()
    assert [line["iteration"] for line in metrics(tmp_path)] == [1]


def test_a_log_gets_a_line_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(tmp_path, 100, CONFIG, Topology(3, 1), clock) as progress:
        capsys.readouterr()
        progress.refresh()
        for iteration in range(METRICS_EVERY):
            progress.advance(iteration + 1, 0.25, 100)
        clock.seconds += SECONDS_PER_LINE - 0.01
        progress.refresh()
        assert capsys.readouterr().out == ""
        clock.seconds += 0.01
        progress.refresh()
        progress.refresh()
        assert capsys.readouterr().out == "iteration 20/100  loss 0.2500\n"  # no speed is known yet
        progress.advance(METRICS_EVERY + 1, 0.25, 100)
        clock.seconds += SECONDS_PER_LINE
        progress.refresh((300, 1200))
        assert capsys.readouterr().out == (
            "iteration 21/100  evaluating 300/1,200 samples  420 samples/s now  loss 0.2500  ETA 0:00:19\n"
        )
    assert capsys.readouterr().out.startswith("iteration 21/100")


def test_before_the_first_iteration_the_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(tmp_path, 100, CONFIG, Topology(3, 1), clock) as progress:
        capsys.readouterr()
        clock.seconds += 65
        progress.refresh()
        assert capsys.readouterr().out == "iteration 0/100  waiting for the first iteration, 0:01:05 so far\n"


def test_the_last_checkpoint_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(tmp_path, 22, CONFIG, Topology(3, 1), clock) as progress:
        for iteration in range(22):
            clock.seconds += 0.5
            progress.advance(iteration + 1, 0.25, 100)
        history = progress.history()
        clock.seconds += 0.01
        progress.training_is_over()
        lines = metrics(tmp_path)
        assert lines[-1] == {"iteration": 22, "loss": 0.25, "samples_per_second": 200.0}
        assert progress.history() == history  # for a job that goes on with more iterations
        progress.refresh((300, 300))
        progress.refresh(is_saving=True)
        clock.seconds += 20
        capsys.readouterr()
        progress.refresh(is_saving=True)
        assert capsys.readouterr().out == (
            "iteration 22/22  writing the last checkpoint, 0:00:20 so far  loss 0.2500\n"
        )
        progress.refresh()
    assert capsys.readouterr().out == "iteration 22/22  loss 0.2500\n"
    assert metrics(tmp_path) == lines


def test_the_speed_is_recent() -> None:
    line = ProgressLine(0.0, first_iteration=0, num_iterations=1000)
    for iteration in range(1, 11):
        line.advance(60.0 * iteration, iteration, 100)  # slow at first, as while compiling
    for iteration in range(11, 111):
        line.advance(600 + 0.5 * (iteration - 10), iteration, 100)
    assert line.text(650.0) == "iteration 110/1,000  200 samples/s now  ETA 0:07:25"


def test_windows_are_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    window = Evaluation(0, EvaluationResult(9, LabelMetrics(0.5, 0.75, 1.0, 1.5)), (86400, 172800))
    with Progress(tmp_path, 50, CONFIG, Topology(3, 1), Clock()) as progress:
        capsys.readouterr()
        progress.evaluated(window, is_best=False)
    assert capsys.readouterr().out.splitlines() == [
        "window from 86400 to 172800, before training on it: AUC 0.5000, log loss 0.7500, normalised entropy 1.0000, "
        "calibration 1.5000"
    ]
    assert Evaluation.from_line((tmp_path / "evaluations.jsonl").read_text()) == window


def test_evaluations_are_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = Evaluation(5, EvaluationResult(9, LabelMetrics(0.5, 0.75, 1.0, 1.5)))
    new = Evaluation(20, EvaluationResult(9, LabelMetrics(0.625, 0.5, 0.875, 1.25)))
    one_class = Evaluation(50, EvaluationResult(9, LabelMetrics(None, 0.5, None, None)))
    clock = Clock()
    (tmp_path / "evaluations.jsonl").write_text("of an earlier run")
    with Progress(tmp_path, 50, CONFIG, Topology(3, 1), clock, start=10, evaluations=[earlier]) as progress:
        capsys.readouterr()
        progress.evaluated(new, is_best=True)
        progress.advance(21, 0.25, 100)
        clock.seconds += SECONDS_PER_LINE
        progress.refresh()
        progress.evaluated(one_class, is_best=True)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "evaluation after 20 iterations: AUC 0.6250, log loss 0.5000, normalised entropy 0.8750, calibration 1.2500, "
        "the best so far",
        "iteration 21/50  loss 0.2500  AUC 0.6250",
        "evaluation after 50 iterations: log loss 0.5000",
    ]
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [Evaluation.from_line(line) for line in lines] == [earlier, new, one_class]
    assert json.loads(lines[1])["normalised_entropy"] == 0.875
