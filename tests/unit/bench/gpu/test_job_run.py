"""The times of a job, with batches and a clock that stand in."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bagpipe_hpc.bench.gpu import job_run
from bagpipe_hpc.bench.gpu.job_run import FROM_SUMMARY, StepTimer, TrainerTimes, figures_of


class Clock:
    """Goes on by a millisecond whenever it is read."""

    now = 0.0

    def note(self) -> float:
        self.now += 1.0
        return self.now

    def milliseconds(self, first: float, last: float) -> float:
        return last - first

    def hold(self) -> None:
        """See DeviceClock."""


def test_only_iterations_between_begin_and_end_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    monkeypatch.setattr(job_run, "clock_of", lambda device: Clock())
    monkeypatch.setattr(job_run, "train_on_labels", lambda batch: trained.append(batch.iteration))
    timer = StepTimer(2, 5)
    assert timer.times() is None
    for iteration in range(8):
        batch: Any = SimpleNamespace(iteration=iteration, labels=SimpleNamespace(device="a device"))
        timer.step(batch)
    assert trained == list(range(8))
    times = timer.times()
    assert times is not None
    assert (times.device_iteration, times.device_model) == (2.0, 1.0)  # three iterations of two readings each
    assert times.iteration > 0


def test_the_slowest_trainer_counts_and_the_run_directory_goes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json").write_text(json.dumps(dict.fromkeys(FROM_SUMMARY, 7)))
    found = figures_of([TrainerTimes(5.0, 4.0, 1.0), TrainerTimes(3.0, 6.0, 2.0)], run)
    assert (found["milliseconds"], found["device_iteration"], found["device_model"]) == (5.0, 6.0, 2.0)
    assert found["loss"] == 7
    assert not run.exists()
