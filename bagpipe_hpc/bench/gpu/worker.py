"""The process that trains: `python -m bagpipe_hpc.bench.gpu.worker TRAINERS`, on all ranks of a job; with 0, alone.

Rank 0 reads lines of JSON from its standard input, and answers each with one line on its standard output. `say` is:

    hello        what computes here
    job          trains bagpipe_hpc
    resident     trains the same model with all rows on the device
    fbgemm       trains the same model with FBGEMM's tables
    kernels      calls each kernel on rows

All but `job` are for the process alone. Its jobs have one trainer, and their ranks are threads. What cannot be measured
here is answered with {"skipped": reason}, and with "ended" if the process ends, because it had too little memory and
may still hold some. After any other error the answer is {"error": message}, and the process ends. It ends, too, at the
end of its input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bagpipe_hpc.bench.gpu.case import Cell, GpuCase, model_config
from bagpipe_hpc.bench.gpu.crews import ALONE
from bagpipe_hpc.errors import BagpipeError, ConfigError, DatasetError, DeviceMemoryError
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.trainer.device.names import device_named

KEPT_BATCHES = 8  # different batches that stay on the device
WARM_UP = 8  # iterations that are not timed: kernels are compiled, and torch takes its memory
IMPOSSIBLE = (ConfigError, DatasetError, DeviceMemoryError)
Answer = dict[str, Any]
Request = dict[str, Any]


def main() -> int:
    """Answer every line until the input ends."""
    # Libraries may print: what they print goes to standard error, so that it cannot be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    trainers = int(sys.argv[1])
    return _answer_alone(answers) if trainers == ALONE else _answer_on_ranks(answers, trainers)


def _answer_alone(answers: IO[str]) -> int:
    from bagpipe_hpc.launcher import keep_mpi_from_starting

    keep_mpi_from_starting()
    worker = AloneWorker()
    for line in sys.stdin:
        answer = _attempt(worker.answer, json.loads(line))
        _say(answers, answer)
        if "error" in answer or "ended" in answer:
            break
    os._exit(0)  # at once: threads of a job that failed may wait for something


def _answer_on_ranks(answers: IO[str], trainers: int) -> int:
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.collectives import all_gather_json
    from bagpipe_hpc.transport.mpi import launched_ranks

    world = launched_ranks()
    with whole_job_fails_together():
        while line := all_gather_json(world, sys.stdin.readline() if world.rank == 0 else "")[0]:
            request = json.loads(line)
            times, skipped = None, ""
            try:
                if request["say"] == "job":
                    times = _train(request, trainers, is_local=False)
            except IMPOSSIBLE as error:
                skipped = str(error)
            measured = all_gather_json(world, asdict(times) if times else None)
            if world.rank == 0:
                _say(answers, {"skipped": skipped} if skipped else _joint(request, [each for each in measured if each]))
            _free_memory()
    return 0


def _joint(request: Request, measured: list[dict[str, float]]) -> Answer:
    from bagpipe_hpc.bench.gpu.job_run import TrainerTimes, figures_of

    if not measured:
        return {}
    return figures_of([TrainerTimes(**each) for each in measured], Path(request["run"]))


def _train(request: Request, trainers: int, *, is_local: bool) -> Any:
    from bagpipe_hpc.bench.gpu.job_run import run_job

    case, cell = GpuCase.of_json(request["case"]), Cell(*request["cell"])
    data, run_path = Path(request["data"]), Path(request["run"])
    return run_job(case, cell, trainers, request["cache_rows"], data, run_path, is_local=is_local)


def _attempt(answered: Callable[[Request], Answer], request: Request) -> Answer:
    try:
        return answered(request)
    except DeviceMemoryError as error:
        return {"skipped": str(error), "ended": True}
    except IMPOSSIBLE as error:
        return {"skipped": str(error)}
    except BagpipeError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".strip()}


def _say(answers: IO[str], answer: Answer) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class AloneWorker:
    """Answers requests in this process alone. The model of the latest request stays for the next one."""

    def __init__(self) -> None:
        keep_freed_memory()  # as trainers do
        self._key: list[Any] = []
        self._model: Any = None
        self._batches: list[Any] = []

    def answer(self, request: Request) -> Answer:
        """Do what a request says."""
        match request["say"]:
            case "hello":
                return self._hello(request)
            case "job":
                self._forget(request, but_for=("resident",))
                times = _train(request, 1, is_local=True)
                assert times is not None
                return _joint(request, [asdict(times)])
            case "kernels":
                return self._kernels(request)
            case name:
                return self._timed(request, name)

    def _hello(self, request: Request) -> Answer:
        import platform

        import torch

        from bagpipe_hpc.trainer.device.choose import choose_device
        from bagpipe_hpc.trainer.device.gpus import try_gpus

        device = choose_device(device_named("--device", request["device"]), 0)
        on_gpu = not device.shares_memory
        return {
            "on_gpu": on_gpu,
            "device": try_gpus() if on_gpu else f"CPU, {os.cpu_count()} cores ({platform.machine()})",
            "kernels": device.kernels.name,
            "torch": torch.__version__,
            "free_bytes": device.free_bytes(1),
        }

    def _timed(self, request: Request, name: str) -> Answer:
        """Train a model that has all its rows on the device."""
        with _naming_memory():
            self._load(request, name)
            clock = self._clock()
            iterations = GpuCase.of_json(request["case"]).iterations
            self._model.train(self._batches, WARM_UP)
            first = clock.note()
            self._model.train(self._batches, iterations)
            return {"milliseconds": clock.milliseconds(first, clock.note()) / iterations}

    def _kernels(self, request: Request) -> Answer:
        from bagpipe_hpc.bench.gpu.kernel_bandwidth import measure_kernels

        with _naming_memory():
            self._load(request, "resident")
            measured = measure_kernels(self._model, self._batches[0], self._clock())
        return {"kernels": {name: asdict(bandwidth) for name, bandwidth in measured.items()}}

    def _clock(self) -> Any:
        from bagpipe_hpc.trainer.device.device_clock import clock_of

        return clock_of(self._device.torch_device)

    def _load(self, request: Request, name: str) -> None:
        """Make a model and its batches, unless the latest request had the same."""
        from bagpipe_hpc.data.dataset import open_dataset
        from bagpipe_hpc.trainer.device.choose import choose_device

        key = [name, *request["cell"]]
        if self._key == key:
            return
        kind = _kind_of(name)
        self._forget(request)
        case, cell = GpuCase.of_json(request["case"]), Cell(*request["cell"])
        self._device = choose_device(case.device, 0)
        dataset = open_dataset(Path(request["data"]))
        self._model = kind(model_config(cell), dataset.schema, self._device)
        self._key = key
        for batch in dataset.train.batches(cell.batch_size):
            if len(self._batches) == min(KEPT_BATCHES, case.iterations):
                break
            self._batches.append(self._model.place(batch))

    def _forget(self, request: Request, but_for: tuple[str, ...] = ()) -> None:
        """Free the memory of the latest model, unless it is one of some that fit beside what comes."""
        if self._key and self._key[0] in but_for and self._key[1:] == request["cell"]:
            return
        self._key, self._model, self._batches = [], None, []
        _free_memory()


def _free_memory() -> None:
    """Free what nothing refers to, on the host and on the device."""
    gc.collect()
    if "torch" in sys.modules:  # a rank that does not train need not import it
        from bagpipe_hpc.trainer.device.gpus import give_memory_back

        give_memory_back()


@contextmanager
def _naming_memory() -> Iterator[None]:
    """Raise DeviceMemoryError if the device has no memory left for something inside the block."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        said = " ".join(str(error).split())
        raise DeviceMemoryError(f"out of memory: {said}; give lower --batch-sizes, --dims or --scale") from None


def _kind_of(name: str) -> Any:
    """Return what makes a model. FBGEMM is imported only if it is asked for."""
    if name == "resident":
        from bagpipe_hpc.bench.gpu.resident import ResidentModel

        return ResidentModel
    from bagpipe_hpc.bench.gpu.fbgemm import FbgemmModel, why_absent

    if reason := why_absent():
        raise ConfigError(reason)
    return FbgemmModel


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        raise SystemExit(main())
