"""The measurement with workers that stand in for processes: order, repeats, time, failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.bench.gpu.budget import TimeBudget
from bagpipe_hpc.bench.gpu.case import Cell
from bagpipe_hpc.bench.gpu.crews import ALONE, NO_LAUNCHER
from bagpipe_hpc.bench.gpu.figures import KERNEL_NAMES, GpuFigures
from bagpipe_hpc.bench.gpu.measure import NO_TIME, GpuBench
from bagpipe_hpc.data.dataset import no_progress
from bagpipe_hpc.errors import ConfigError, PlatformError

OPTIONS = {"batch_sizes": (8,), "dims": (4,), "trainers": (1, 2), "scale": 1e-5, "window": 4, "repeats": 2}
CELL = Cell(8, 4)
HELLO = {"on_gpu": False, "device": "a stand-in", "kernels": "none"}
KERNEL = {"num_bytes": 1, "milliseconds": 1.0, "copy_milliseconds": 1.0}
Answerer = Callable[[dict[str, Any]], dict[str, Any]]


class Machine:
    """Starts workers, and keeps the time that their answers take."""

    def __init__(self, seconds: float = 1.0, answers: dict[str, Answerer] | None = None) -> None:
        self.now, self._seconds, self._answers = 0.0, seconds, answers or {}
        self.asked: list[tuple[int, str]] = []
        self.started: list[int] = []
        self.closed: list[int] = []

    def start(self, trainers: int, mpirun: str | None) -> StandIn:
        self.started.append(trainers)
        return StandIn(self, trainers)

    def answer(self, trainers: int, request: dict[str, Any]) -> dict[str, Any]:
        say = request["say"]
        if say == "hello":
            return HELLO
        self.now += self._seconds
        self.asked.append((trainers, say))
        if say in self._answers:
            return self._answers[say](request)
        return {"kernels": dict.fromkeys(KERNEL_NAMES, KERNEL)} if say == "kernels" else {"milliseconds": 2.0}

    def measure(
        self, tmp_path: Path, seconds: float = 1000.0, mpirun: str | None = "mpirun", **options: Any
    ) -> GpuFigures:
        bench = GpuBench(TimeBudget(seconds, lambda: self.now), no_progress, mpirun, self.start)
        return bench.run({**OPTIONS, **options}, tmp_path)


class StandIn:
    """A worker."""

    def __init__(self, machine: Machine, trainers: int) -> None:
        self._machine, self._trainers = machine, trainers

    def ask(self, doing: str, request: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        return self._machine.answer(self._trainers, request)

    def close(self) -> None:
        self._machine.closed.append(self._trainers)


def absent(request: dict[str, Any]) -> dict[str, Any]:
    return {"skipped": "FBGEMM is not installed"}


def dies(request: dict[str, Any]) -> dict[str, Any]:
    raise PlatformError("has ended with exit code 3")


def test_systems_alternate_and_every_second_repeat_is_the_other_way_round(tmp_path: Path) -> None:
    machine = Machine()
    figures = machine.measure(tmp_path)
    first = [(ALONE, "resident"), (ALONE, "kernels"), (1, "job"), (2, "job"), (ALONE, "fbgemm")]
    assert machine.asked == [*first, (ALONE, "fbgemm"), (2, "job"), (1, "job"), (ALONE, "resident")]
    assert sorted(machine.started) == sorted(machine.closed) == [ALONE, 1, 2]
    assert len(figures.milliseconds(CELL, "trainers-2")) == 2
    assert not figures.missing


def test_what_is_absent_is_asked_for_once(tmp_path: Path) -> None:
    machine = Machine(answers={"fbgemm": absent})
    figures = machine.measure(tmp_path, mpirun=None, dims=(4, 8))
    assert machine.asked.count((ALONE, "fbgemm")) == 1
    assert (ALONE, "job") in machine.asked
    assert machine.started == [ALONE]
    assert figures.is_local
    for cell in figures.case.cells:
        assert figures.missing[cell] == {"fbgemm": "FBGEMM is not installed", "trainers-2": NO_LAUNCHER}
    assert not figures.errors


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    machine = Machine(answers={"fbgemm": dies})
    figures = machine.measure(tmp_path, trainers=(1,))
    assert figures.missing[CELL] == {"fbgemm": "has ended with exit code 3"}
    assert list(figures.errors.values()) == ["has ended with exit code 3"]
    assert sorted(machine.started) == [ALONE, ALONE, 1]
    assert len(figures.milliseconds(CELL, "resident")) == 2


def lacks_memory(request: dict[str, Any]) -> dict[str, Any]:
    return {"skipped": "out of memory: torch says so", "ended": True}


def dies_without_memory(request: dict[str, Any]) -> dict[str, Any]:
    raise PlatformError("has ended with exit code 1; its last messages:\nout of memory: a cache of 3 rows")


@pytest.mark.parametrize("answer", [lacks_memory, dies_without_memory])
def test_too_little_memory_is_no_failure(tmp_path: Path, answer: Answerer) -> None:
    machine = Machine(answers={"resident": answer})
    figures = machine.measure(tmp_path, trainers=(1,))
    assert "out of memory" in figures.missing[CELL]["resident"]
    assert not figures.errors
    assert sorted(machine.started) == [ALONE, ALONE, 1]
    assert len(figures.milliseconds(CELL, "trainers-1")) == 2


def test_cells_without_time_are_named(tmp_path: Path) -> None:
    machine = Machine(seconds=10.0)
    figures = machine.measure(tmp_path, seconds=55.0, trainers=(1,), dims=(4, 8, 16))
    assert machine.now <= 55.0
    first, *_, last = figures.case.cells
    assert set(figures.milliseconds(first, "resident")) == {0}
    assert set(figures.missing[last].values()) == {NO_TIME}


def test_a_run_that_is_cut_off_at_the_end_has_not_failed(tmp_path: Path) -> None:
    machine = Machine(answers={"job": dies}, seconds=30.0)
    figures = machine.measure(tmp_path, seconds=85.0, trainers=(1,))
    assert figures.missing[CELL] == {"trainers-1": NO_TIME, "fbgemm": NO_TIME}
    assert not figures.errors
    assert sorted(machine.closed) == [ALONE, 1]


def test_an_error_of_the_device_ends_the_command(tmp_path: Path) -> None:
    machine = Machine()
    machine.answer = lambda trainers, request: {"error": "torch finds no GPU"}  # type: ignore[method-assign]
    with pytest.raises(PlatformError, match="torch finds no GPU"):
        machine.measure(tmp_path)


def test_wrong_options_end_the_command_before_a_run(tmp_path: Path) -> None:
    machine = Machine()
    with pytest.raises(ConfigError, match="--repeats is 0"):
        machine.measure(tmp_path, repeats=0)
    assert machine.asked == []
    assert machine.closed == [ALONE]
