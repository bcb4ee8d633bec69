"""The measurement, cell by cell. What is compared alternates: every repeat of a cell runs each system once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from bagpipe_hpc.bench.gpu.budget import TimeBudget
from bagpipe_hpc.bench.gpu.case import Cell, GpuCase, case_of
from bagpipe_hpc.bench.gpu.crews import ALONE, NO_LAUNCHER, crew_command, environment_of_crew, find_mpirun
from bagpipe_hpc.bench.gpu.figures import FBGEMM, KERNELS, RESIDENT, GpuFigures, job_name, title_of
from bagpipe_hpc.bench.gpu.samples import bench_dataset, num_distinct_rows, size_on_disk
from bagpipe_hpc.bench.peers.conversation import WorkerProcess
from bagpipe_hpc.data.dataset import Progress
from bagpipe_hpc.errors import PlatformError

SECONDS_TO_CLOSE = 10.0  # of the time for everything: to end processes, or a tenth of the time if that is less
START_SECONDS = 120.0  # torch and the driver of a GPU may take long to start
CURE = "give more with --minutes, or measure less with --batch-sizes, --dims or --iterations"
NO_TIME = "no time left: raise --minutes"
OUT_OF_MEMORY = "out of memory"  # as trainer/device_memory.py begins its message


class Worker(Protocol):
    """A process that answers requests."""

    def ask(self, doing: str, request: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """See WorkerProcess."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class GpuBench:
    """The measurement.

    Args:
        budget: The time for everything.
        progress: Called with what happens at present.
        mpirun: The path of the launcher; None: there is none.
        start: Starts the worker for jobs with so many trainers, or the process alone.
    """

    def __init__(
        self,
        budget: TimeBudget,
        progress: Progress,
        mpirun: str | None = None,
        start: Callable[[int, str | None], Worker] | None = None,
    ) -> None:
        self._budget, self._progress, self._mpirun = budget, progress, mpirun
        self._start = start or start_worker
        self._workers: dict[int, Worker] = {}
        self._absent: dict[str, str] = {}  # by system: why it cannot run on this machine

    def run(self, options: dict[str, Any], data_directory: Path) -> GpuFigures:
        """Measure all cells, as far as the time suffices.

        Args:
            options: The fields of GpuCase; None stands for a default.
            data_directory: Where the data set is, or will be.
        Raises:
            BagpipeError: an option is wrong, the device is not there, or the data set cannot be made.
        """
        with ExitStack() as stack:
            stack.callback(self._close)
            self._progress("asking the device", 0, 0)
            hello = self._ask(ALONE, {"say": "hello", "device": options.get("device") or "auto"}, START_SECONDS)
            if problem := hello.get("error") or hello.get("skipped"):
                raise PlatformError(str(problem))
            case = case_of(options, on_gpu=hello["on_gpu"])
            dataset = bench_dataset(data_directory, case, self._progress)
            self._progress("counting rows", 0, 0)
            cache_rows, run_path = num_distinct_rows(dataset), Path(stack.enter_context(_scratch())) / "run"
            shared = {
                "case": case.to_json(), "data": str(dataset.path), "cache_rows": cache_rows, "run": str(run_path)
            }  # fmt: skip
            if self._mpirun is None:
                self._absent |= {job_name(trainers): NO_LAUNCHER for trainers in case.trainers if trainers > 1}
            is_local = self._mpirun is None
            figures = GpuFigures(case, hello, str(dataset.path), size_on_disk(dataset), cache_rows, is_local)
            for number, cell in enumerate(case.cells):
                self._budget.begin_cell(len(case.cells) - number)
                self._measure(case, cell, shared, figures)
            figures.seconds = self._budget.used
            return figures

    def _measure(self, case: GpuCase, cell: Cell, shared: dict[str, Any], figures: GpuFigures) -> None:
        """Measure one cell: all systems once, then again as long as its time suffices."""
        systems = [RESIDENT, *(job_name(trainers) for trainers in case.trainers), FBGEMM]
        for system, reason in self._absent.items():
            figures.add(cell, system, 0, {"skipped": reason})
        request = {**shared, "cell": [cell.batch_size, cell.dim]}
        running, slowest = [system for system in systems if system not in self._absent], 0.0
        for repeat in range(case.repeats):
            if repeat and self._budget.left_of_cell < slowest:
                break
            begin = self._budget.used
            if repeat:
                running.reverse()
            # Kernels follow the model with all rows resident, which they work on.
            for system in [running[0], KERNELS, *running[1:]] if repeat == 0 else list(running):
                of_repeat = "" if system == KERNELS else f", repeat {repeat + 1} of at most {case.repeats}"
                self._progress(f"{cell.title}, {title_of(system)}{of_repeat}", 0, 0)
                if figures.add(cell, system, repeat, self._timed(system, request)) and system in running:
                    running = [other for other in running if other != system]
            slowest = max(slowest, self._budget.used - begin)

    def _timed(self, system: str, request: dict[str, Any]) -> dict[str, Any]:
        """Run a system once, if there is time."""
        if not self._budget.has_time_for(system):
            return {"skipped": NO_TIME}
        crew, say = (int(system.removeprefix("trainers-")), "job") if "-" in system else (ALONE, system)
        if self._mpirun is None:
            crew = ALONE  # one trainer; more are absent
        begin = self._budget.used
        # A process of several ranks starts with its first request, and its libraries take their time.
        starts = START_SECONDS if crew not in self._workers else 0.0
        answer = self._ask(crew, {**request, "say": say}, min(self._budget.limit + starts, self._budget.left))
        self._budget.note(system, self._budget.used - begin)
        if say == FBGEMM and "not installed" in answer.get("skipped", ""):
            self._absent[system] = answer["skipped"]
        return answer

    def _ask(self, trainers: int, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask the worker for jobs with so many trainers. After an error the next request gets a new one."""
        if trainers not in self._workers:
            self._workers[trainers] = self._start(trainers, self._mpirun)
        try:
            answer = self._workers[trainers].ask("a run", request, seconds)
        except PlatformError as error:
            answer = self._without_answer(str(error))
        if "error" in answer or "ended" in answer:
            self._workers.pop(trainers).close()
            shutil.rmtree(request.get("run", ""), ignore_errors=True)
        return answer

    def _without_answer(self, reason: str) -> dict[str, Any]:
        """Return what stands for the answer of a worker that has ended, or was too slow."""
        if self._budget.left == 0:
            return {"skipped": NO_TIME, "ended": True}
        return {"skipped" if OUT_OF_MEMORY in reason else "error": reason, "ended": True}

    def _close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def start_worker(trainers: int, mpirun: str | None) -> Worker:
    """Start the worker for jobs with so many trainers. ALONE: the process alone."""
    command, variables = crew_command(trainers, mpirun)
    name = "the process alone" if trainers == ALONE else f"the job with {trainers} trainer(s)"
    return WorkerProcess(name, environment_of_crew(variables), START_SECONDS, command, CURE)


def run_bench(options: dict[str, Any], data_directory: Path, minutes: float, progress: Progress) -> GpuFigures:
    """Measure with workers of this machine; see `GpuBench.run`.

    Args:
        options: See `GpuBench.run`.
        data_directory: See `GpuBench.run`.
        minutes: The time for everything.
        progress: Called with what happens at present.
    """
    seconds = 60 * minutes - min(SECONDS_TO_CLOSE, 6 * minutes)
    return GpuBench(TimeBudget(seconds), progress, find_mpirun()).run(options, data_directory)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bagpipe-bench-gpu-", dir=os.environ.get("TMPDIR"))
