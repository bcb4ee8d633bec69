"""The Python API: `run` runs a whole job, `session` runs a job with your own training loop.

Start a program that uses it on all ranks, as you start `bagpipe train`, or let it run its jobs in one process
(local=True).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import BagpipeError, ConfigError, OwnModelError
from bagpipe_hpc.launch.uncaught import expect_error, expecting_local_errors, raise_on_all_ranks
from bagpipe_hpc.launcher import keep_mpi_from_starting
from bagpipe_hpc.log import printing_records

if TYPE_CHECKING:
    from bagpipe_hpc.launch.job import Training
    from bagpipe_hpc.launch.request import Request
    from bagpipe_hpc.trainer.own_model import Model, ModelFactory
    from bagpipe_hpc.trainer.trainer_batch import Tensor, TrainerBatch

Settings = Config | Mapping[str, Any] | str | Path | None
Summary = dict[str, Any]


def run(
    config: Settings = None,
    build_model: ModelFactory | None = None,
    *,
    data: str | Path,
    run_dir: str | Path,
    resume: str | Path | None = None,
    time_limit: str | None = None,
    trace_iterations: str | None = None,
    local: bool = False,
) -> Summary | None:
    """Train a model, as `bagpipe train` does. The arguments are its options.

    Args:
        config: The path of a YAML file, settings by section (`{"training": {"epochs": 2}}`), or a configuration.
        build_model: Makes the model from ModelInputs. None: model.factory or model.name says which model.
        data: The directory of the data set.
        run_dir: The run directory, for config.yaml, metrics.jsonl and summary.json.
        resume: "auto", "latest", "best", or the path of a checkpoint. None: the job starts afresh.
        time_limit: A duration in the notation of Slurm ("30:00"; a bare number means minutes), or with a unit ("90s").
        trace_iterations: The iterations to trace, such as "100:200"; ":" means all. None: tracing is off.
        local: Whether to run in this process alone, without a launcher. The ranks are threads, with one trainer.
    Returns:
        The content of summary.json at rank 0; None at the other ranks.
    Raises:
        ConfigError, DatasetError, CheckpointError, OwnModelError: settings, data, checkpoint or model are wrong. The
            job has not started.
        JobStopped: a signal or the time limit stopped the job. The message says where, and how to go on.
        TableFullError: a dynamic table has no row left for a new id. The message names the checkpoint before.
        DivergedError: the loss, the model or a prediction is not finite.
        BagpipeError: the base class of all of these. It is raised on all ranks. If nothing catches it, one rank prints
            it, and the program ends with the exit code of `bagpipe train`.
    Communication: collective over MPI_COMM_WORLD. If a rank fails in any other way, all ranks end. If the job is local,
        there is no communication, and such a failure is raised.
    """
    request, training = _start(config, build_model, data, run_dir, resume, time_limit, trace_iterations, local)
    with printing_records(unless_configured=True), expecting_local_errors(request.is_local):
        for _ in training.play(request):
            raise AssertionError("the built-in loop makes its steps itself")
    return _end(training, request)


def session(
    config: Settings = None,
    build_model: ModelFactory | None = None,
    *,
    data: str | Path,
    run_dir: str | Path,
    resume: str | Path | None = None,
    time_limit: str | None = None,
    trace_iterations: str | None = None,
    local: bool = False,
) -> Session:
    """Return a job with your own training loop; see `Session` for the loop, and `run` for the arguments."""
    return Session(*_start(config, build_model, data, run_dir, resume, time_limit, trace_iterations, local, True))


class Session:
    """A job whose steps the program makes.

        with bagpipe_hpc.session(config, build_model, data=..., run_dir=...) as session:
            for batch in session:
                losses = loss_function(session.model(batch.dense, batch.embedded), batch.labels)  # one per sample
                session.step(batch.mean(losses))

    The body runs at trainers only, once for every iteration in which they have samples. The oracle and the embedding
    servers play their roles inside the iterator. The job evaluates `model` and trains its parameters.

    Once the loop is over, `summary` is the content of summary.json at rank 0, and None at the other ranks.
    """

    def __init__(self, request: Request, training: Training) -> None:
        self.summary: Summary | None = None
        self._request, self._training = request, training
        # The session keeps the generator, so that leaving the loop does not close it: __exit__ must run first.
        self._batches: Generator[TrainerBatch, None, None] | None = None
        self._batch: TrainerBatch | None = None
        self._is_over = False

    def __enter__(self) -> Session:
        self._batches = self._play()
        return self

    def __iter__(self) -> Iterator[TrainerBatch]:
        """Play the role of this rank to the end of the job, and yield the batches of a trainer.

        Raises:
            BagpipeError: see `run`.
            OwnModelError: the loop is outside of a `with` block.
        Communication: see `run`.
        """
        if self._batches is None:
            raise OwnModelError(
                "a session must be entered before its loop: use `with bagpipe_hpc.session(...) as session:`"
            )
        return self._batches

    def _play(self) -> Generator[TrainerBatch, None, None]:
        play = self._training.play(self._request)
        try:
            with printing_records(unless_configured=True), expecting_local_errors(self._request.is_local):
                for batch in play:
                    self._batch = batch
                    yield batch
        finally:
            play.close()
            self._batch, self._is_over = None, True
        self.summary = _end(self._training, self._request)

    @property
    def model(self) -> Model:
        """The model of this trainer.

        Raises:
            OwnModelError: the caller is outside of the loop, or this rank is not a trainer.
        """
        return self._current("model").model

    def step(self, loss: Tensor) -> None:
        """Train on the batch. Every optimizer makes one step with the gradients of the losses of all trainers.

        Args:
            loss: A scalar, this trainer's part of the loss over the global batch. This is `batch.mean(losses)`, or the
                sum over its samples, divided by `batch.num_global_samples`.
        Raises:
            OwnModelError: the loss is no such scalar, or this is the second step on this batch.
        Communication: starts the allreduces of dense gradients.
        """
        self._current("step").step(loss)

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        """End the job if the loop has not come to its end, because the other ranks wait for this one."""
        if self._is_over:
            return
        is_local = self._request.is_local
        is_left = error is None
        if error is None:
            where = "before it began" if self._batch is None else f"in iteration {self._batch.iteration}"
            error = OwnModelError(
                f"the loop over the session was left {where}, but the other ranks go on: iterate to the end; set "
                "training.iterations if the job should end earlier"
            )
        if not is_local:
            from bagpipe_hpc.runtime.failure import abort_job

            abort_job(self._training.name, error)
        assert self._batches is not None
        self._batch, self._is_over = None, True
        self._batches.close()  # this ends the other ranks
        if is_local and isinstance(error, BagpipeError):
            expect_error(error, prints=True)
        if is_left:
            raise error

    def _current(self, what: str) -> TrainerBatch:
        if self._batch is None:
            raise OwnModelError(
                f"session.{what} exists only in the body of `for batch in session:`, which runs at trainers only"
            )
        return self._batch


def _start(
    config: Settings,
    build_model: ModelFactory | None,
    data: str | Path,
    run_dir: str | Path,
    resume: str | Path | None,
    time_limit: str | None,
    trace_iterations: str | None,
    local: bool,
    has_own_loop: bool = False,
) -> tuple[Request, Training]:
    for name, path in {"data": data, "run_dir": run_dir}.items():
        if not isinstance(path, str | Path) or "\0" in str(path):
            raise ConfigError(f"{name} = {path!r} is not a path: give the path of a directory")
    if local:
        keep_mpi_from_starting()
    # The import of `job` starts MPI, unless it is kept from starting.
    from bagpipe_hpc.launch.job import Training
    from bagpipe_hpc.launch.request import Request

    request = Request(
        config,
        Path(data),
        Path(run_dir),
        [],
        traced=trace_iterations,
        resume=None if resume is None else str(resume),
        time_limit=time_limit,
        build_model=build_model,
        has_own_loop=has_own_loop,
        is_local=local,
    )
    return request, Training()


def _end(training: Training, request: Request) -> Summary | None:
    if training.error is not None:
        raise_on_all_ranks(training.error, prints=training.prints)
    if not training.prints:
        return None
    summary: Summary = json.loads((request.run_path / "summary.json").read_text(encoding="utf-8"))
    return summary
