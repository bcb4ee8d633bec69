"""A job of bagpipe_hpc with a loop that takes times: of the host between batches, and of the device."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bagpipe_hpc.bench.gpu.case import Cell, GpuCase
from bagpipe_hpc.launch.job import Training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.log import warnings_only
from bagpipe_hpc.trainer.device.device_clock import DeviceClock, Moment, clock_of
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, train_on_labels

FROM_SUMMARY = (
    "milliseconds_per_iteration", "milliseconds_meanwhile", "steady_milliseconds", "working_milliseconds",
    "rows_fetched", "rows_pushed", "rows_written_back", "bytes_fetched", "bytes_written_back", "bytes_exchanged",
    "iterations", "devices", "dense_backend", "loss",
)  # fmt: skip


@dataclass(frozen=True)
class TrainerTimes:
    """What one trainer has measured, in milliseconds per timed iteration.

    Args:
        iteration: On the host, from batch to batch.
        device_iteration: On the device, in the stream that computes, from batch to batch.
        device_model: Of this, the model: forward, loss and backward.
    """

    iteration: float
    device_iteration: float
    device_model: float

    @staticmethod
    def slowest(trainers: Sequence[TrainerTimes]) -> TrainerTimes:
        """Return the largest time of each kind."""
        return TrainerTimes(*(max(values) for values in zip(*(astuple_of(each) for each in trainers), strict=True)))


def astuple_of(times: TrainerTimes) -> tuple[float, float, float]:
    """Return the times in their order."""
    return times.iteration, times.device_iteration, times.device_model


class StepTimer:
    """The step of a training loop, which notes when it begins and ends.

    Args:
        begin: The first iteration that is timed.
        end: The iteration after the last one.
    """

    def __init__(self, begin: int, end: int) -> None:
        self._begin, self._end = begin, end
        self._clock: DeviceClock | None = None
        self._host: list[float] = []  # at the begin of each timed iteration, and of the one after them
        self._before: list[Moment] = []
        self._after: list[Moment] = []

    def step(self, batch: TrainerBatch) -> None:
        """Make the step of click prediction."""
        if not self._begin <= batch.iteration <= self._end:
            train_on_labels(batch)
            return
        if self._clock is None:
            self._clock = clock_of(batch.labels.device)
        self._host.append(time.perf_counter())
        self._before.append(self._clock.note())
        train_on_labels(batch)
        self._after.append(self._clock.note())

    def times(self) -> TrainerTimes | None:
        """Return the times; None: this rank does not train."""
        if self._clock is None:
            return None
        count, clock = len(self._host) - 1, self._clock
        model = [
            clock.milliseconds(first, last) for first, last in zip(self._before[:-1], self._after[:-1], strict=True)
        ]
        return TrainerTimes(
            1e3 * (self._host[-1] - self._host[0]) / count,
            clock.milliseconds(self._before[0], self._before[-1]) / count,
            statistics.fmean(model),
        )


def run_job(
    case: GpuCase, cell: Cell, trainers: int, cache_rows: int, data: Path, run_path: Path, *, is_local: bool
) -> TrainerTimes | None:
    """Train from the initial parameters: on all ranks or, if the job is local, in this process.

    Returns:
        What this rank has measured; None: it does not train.
    Raises:
        BagpipeError: settings or data are wrong, or the job has ended early; the same at every rank.
    Communication: collective over all ranks, unless the job is local.
    """
    settings = case.settings(cell, trainers, cache_rows)
    request = Request(None, data, run_path, settings, has_own_loop=True, is_local=is_local)
    training, timer = Training(), StepTimer(case.begin, case.end)
    with warnings_only():
        training.play_with(request, timer.step)
    if training.error is not None:
        raise training.error
    return timer.times()


def figures_of(trainers: Sequence[TrainerTimes], run_path: Path) -> dict[str, Any]:
    """Return the figures of a job that has ended, and delete its run directory."""
    summary = json.loads((run_path / "summary.json").read_text("utf-8"))
    shutil.rmtree(run_path, ignore_errors=True)
    slowest = TrainerTimes.slowest(trainers)
    return {"milliseconds": slowest.iteration, **asdict(slowest), **{name: summary[name] for name in FROM_SUMMARY}}
