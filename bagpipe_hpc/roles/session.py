"""The Python API: a whole job by `run`, or one with a training loop of your own by `session`.

A program that uses it is started on all ranks, as `bagpipe train` is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.roles.failure import abort_job
from bagpipe_hpc.roles.job import Request, Training, run_training
from bagpipe_hpc.topology import ORACLE_RANK

if TYPE_CHECKING:
    from bagpipe_hpc.training.own_model import Model, ModelFactory
    from bagpipe_hpc.training.trainer_batch import Tensor, TrainerBatch

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
) -> Summary | None:
    """Train; the same as `bagpipe train`, whose options these are.

    Args:
        config: Path of a YAML file, settings by section (`{"training": {"epochs": 2}}`), or a configuration.
        build_model: Called with ModelInputs, returns the model; None: model.factory or model.name.
        data: Data set directory.
        run_dir: Where config.yaml, metrics.jsonl and summary.json go.
        resume: "auto", or the path of a checkpoint.
        time_limit: A duration, as "30:00".
        trace_iterations: As "100:200"; ":" is all.
    Returns:
        What summary.json holds, at rank 0; None at the others.
    Raises:
        SystemExit: with code 2 where settings, data or the model are wrong, and rank 0 has said how; with code 75
            where the job was told to stop, and did so behind a checkpoint. On all ranks.
    Communication: collective over MPI_COMM_WORLD. A rank that fails ends all.
    """
    request = _request(config, build_model, data, run_dir, resume, time_limit, trace_iterations)
    return _end(run_training(request), request)


def session(
    config: Settings = None,
    build_model: ModelFactory | None = None,
    *,
    data: str | Path,
    run_dir: str | Path,
    resume: str | Path | None = None,
    time_limit: str | None = None,
    trace_iterations: str | None = None,
) -> Session:
    """The same with a training loop of your own; see `Session` for the loop, and `run` for the arguments."""
    return Session(_request(config, build_model, data, run_dir, resume, time_limit, trace_iterations, True))


class Session:
    """A job whose steps the program makes.

        with bagpipe_hpc.session(config, build_model, data=..., run_dir=...) as session:
            for batch in session:
                losses = loss_function(session.model(batch.dense, batch.embedded), batch.labels)  # one per sample
                session.step(batch.mean(losses))

    The body runs at trainers only, once for every iteration in which they have samples; the oracle and the embedding
    servers play their roles inside the iterator. The model is what is evaluated, and what has the dense parameters.

    `summary` is as `run` returns it, once the loop is over.
    """

    def __init__(self, request: Request) -> None:
        self.summary: Summary | None = None
        self._request, self._training = request, Training()
        # Kept here: a loop that is left must not close it, but come to __exit__ first.
        self._batches: Iterator[TrainerBatch] | None = None
        self._batch: TrainerBatch | None = None
        self._is_over = False

    def __enter__(self) -> Session:
        self._batches = self._play()
        return self

    def __iter__(self) -> Iterator[TrainerBatch]:
        """Play this rank's role to the end of the job.

        Raises:
            SystemExit: as `run`.
            OwnModelError: outside of a `with` block.
        """
        if self._batches is None:
            raise OwnModelError("a session wants to be entered: `with bagpipe_hpc.session(...) as session:`")
        return self._batches

    def _play(self) -> Iterator[TrainerBatch]:
        for batch in self._training.play(self._request):
            self._batch = batch
            yield batch
        self._batch, self._is_over = None, True
        self.summary = _end(self._training.exit_code, self._request)

    @property
    def model(self) -> Model:
        """What build_model, or the configuration, has made.

        Raises:
            OwnModelError: outside of the loop, or at a rank that is no trainer.
        """
        return self._current("model").model

    def step(self, loss: Tensor) -> None:
        """Train on the batch: gradients of all trainers' losses together, one step of every optimizer.

        Args:
            loss: A scalar, this trainer's part of the loss over the global batch: `batch.mean(losses)`, or what is
                summed over its samples / `batch.num_global_samples`.
        Raises:
            OwnModelError: it is no such loss, or the second of this batch.
        Communication: starts the allreduce of dense gradients.
        """
        self._current("step").step(loss)

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        """A loop that does not come to its end ends the job: the other ranks wait for it."""
        if self._is_over:
            return
        if error is None:
            where = "before it began" if self._batch is None else f"in iteration {self._batch.iteration}"
            error = OwnModelError(
                f"the loop over the session was left {where}, and the other ranks play on: iterate to the end; "
                "training.iterations says where that is"
            )
        abort_job(self._training.name, error)

    def _current(self, what: str) -> TrainerBatch:
        if self._batch is None:
            raise OwnModelError(f"session.{what} is for the body of `for batch in session:`, which runs at trainers")
        return self._batch


def _request(
    config: Settings,
    build_model: ModelFactory | None,
    data: str | Path,
    run_dir: str | Path,
    resume: str | Path | None,
    time_limit: str | None,
    trace_iterations: str | None,
    has_own_loop: bool = False,
) -> Request:
    return Request(
        config,
        Path(data),
        Path(run_dir),
        [],
        traced=trace_iterations,
        resume=None if resume is None else str(resume),
        time_limit=time_limit,
        build_model=build_model,
        has_own_loop=has_own_loop,
    )


def _end(code: int, request: Request) -> Summary | None:
    if code:
        raise SystemExit(code)
    if MPI.COMM_WORLD.rank != ORACLE_RANK:
        return None
    summary: Summary = json.loads((request.run_path / "summary.json").read_text(encoding="utf-8"))
    return summary
