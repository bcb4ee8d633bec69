"""A training job on one rank: what the oracle decides before the start, and who then does what."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mpi4py import MPI

from bagpipe_hpc.collector import resume_collector
from bagpipe_hpc.config import Config, Settings
from bagpipe_hpc.errors import BagpipeError, ConfigError, DatasetError, OwnModelError
from bagpipe_hpc.exit_codes import EXIT_DONE, EXIT_FAILURE, EXIT_INVALID, EXIT_STOPPED
from bagpipe_hpc.launcher import check_launcher
from bagpipe_hpc.placement import describe, order_of_roles
from bagpipe_hpc.roles.communicators import Communicators, check_thread_level, split_world
from bagpipe_hpc.roles.course import BEGINNING, Position
from bagpipe_hpc.roles.failure import whole_job_fails_together
from bagpipe_hpc.roles.placing import place_of_this_rank
from bagpipe_hpc.roles.run_directory import DONE, refuse_training, writing_to
from bagpipe_hpc.roles.run_lock import Ownership
from bagpipe_hpc.roles.run_settings import (
    require_named_factory,
    settings_of_checkpoint,
    settings_of_job,
    write_run_settings,
)
from bagpipe_hpc.roles.saving import CheckpointSpec
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.roles.stop import Budget, StopRequests, listening_for_signals, seconds_left
from bagpipe_hpc.roles.tracing import tracing
from bagpipe_hpc.timeline.merge import delete_traces
from bagpipe_hpc.topology import Role, Topology
from bagpipe_hpc.trace import parse_iterations
from bagpipe_hpc.training.misfit import misfit, table_misfit

if TYPE_CHECKING:
    from bagpipe_hpc.data.dataset import Dataset
    from bagpipe_hpc.training.trainer_batch import TrainerBatch


@dataclass(frozen=True)
class Request:
    """What the command line, or a program, asks for.

    Args:
        settings: A YAML file, settings by section, or a configuration; None: the defaults.
        traced: Iterations to trace, as A:B; None: tracing is off.
        resume: "auto", the path of a checkpoint, or None.
        evaluates_only: Whether to load the checkpoint, with the settings it was made with, and to train no further.
        predictions: Where those of the evaluation go.
        time_limit: A duration; None: until the end of the batch job, where its environment says when that is.
        build_model: Makes the model in place of model.factory.
        has_own_loop: Whether who asks makes the steps.
    """

    settings: Config | Mapping[str, Any] | str | Path | None
    data_path: Path
    run_path: Path
    overrides: list[str]
    traced: str | None = None
    resume: str | None = None
    time_limit: str | None = None
    evaluates_only: bool = False
    predictions: Path | None = None
    build_model: Callable[..., Any] | None = None
    has_own_loop: bool = False


def run_training(request: Request) -> int:
    """Train, as this rank's role; only the oracle reads the configuration and the data.

    Returns:
        The exit code, the same on every rank: EXIT_DONE; EXIT_INVALID, before any work, when the configuration, the
        data, the checkpoint or the number of ranks is wrong, and the oracle has said why; EXIT_STOPPED where the job
        was asked to stop. Any later failure ends all ranks.
    Communication: collective over MPI_COMM_WORLD.
    """
    training = Training()
    for _ in training.play(request):
        raise AssertionError("a step of the built-in loop is not for others to make")
    return training.exit_code


class Training:
    """A job on this rank, played by whoever iterates.

    `name` is what messages call this rank, `exit_code` what `run_training` returns, once the job is over.
    """

    _is_playing = False  # in this process

    def __init__(self) -> None:
        self.name = f"rank {MPI.COMM_WORLD.rank}"
        self.exit_code = EXIT_FAILURE

    def play(self, request: Request) -> Generator[TrainerBatch, None, None]:
        """The same; with an own loop, trainers yield their batches, and go on when the step has been made.

        Raises:
            OwnModelError: another job is being played.
        Communication: as `run_training`.
        """
        if Training._is_playing:
            raise OwnModelError(
                "a job was started while this process plays another; a script that is imported as the module of "
                'model.factory starts its own only under `if __name__ == "__main__":`'
            )
        Training._is_playing = True
        try:
            self.exit_code = yield from _play(self, request)
        finally:
            Training._is_playing = False


def _play(training: Training, request: Request) -> Generator[TrainerBatch, None, int]:
    launched = MPI.COMM_WORLD
    with whole_job_fails_together(training.name):
        agreed = _agree_on_job(launched, request)
    if agreed is None:
        return EXIT_INVALID
    world, job = agreed
    spec = job.spec
    topology = Topology(world.size, spec.config.roles.servers)
    training.name = name = topology.name_of(world.rank)
    with whole_job_fails_together(name):
        comms = split_world(world, topology)
        stops = StopRequests(comms.events)
        # Two ranks speak, so that one is left whichever dies.
        speaking = listening_for_signals(stops, name, speaks=world.rank < 2)
        with tracing(world, topology, spec.traced, request.run_path), speaking:
            is_done = world.bcast((yield from _play_role(job, topology, comms, stops, request)))
        comms.free()
        job.release()
        world.Barrier()  # launchers kill the job at the first exit code that is not 0
        world.Free()
    return EXIT_DONE if is_done else EXIT_STOPPED


@dataclass(frozen=True)
class _Job:
    """A job that may start. Only the oracle has the open data set, the budget of time and the run directory."""

    spec: JobSpec
    dataset: Dataset | None = None
    budget: Budget | None = None
    ownership: Ownership | None = None

    def release(self) -> None:
        """Let another start have the run directory."""
        if self.ownership is not None:
            self.ownership.release()


def _play_role(
    job: _Job, topology: Topology, comms: Communicators, stops: StopRequests, request: Request
) -> Generator[TrainerBatch, None, bool]:
    """Returns, at the oracle, whether the job is done."""
    # Imported here: torch and Horovod only where they are used.
    role = topology.role_of(comms.world.rank)
    if role is Role.ORACLE:
        from bagpipe_hpc.roles.oracle import run_oracle

        resume_collector()
        assert job.dataset is not None
        assert job.budget is not None
        assert job.ownership is not None
        return run_oracle(
            job.spec, topology, comms, job.dataset, request.run_path, stops, job.budget, job.ownership.require
        )
    if role is Role.SERVER:
        from bagpipe_hpc.roles.server import run_server

        resume_collector()
        run_server(job.spec, topology, comms)
    else:
        from bagpipe_hpc.roles.trainer import run_trainer
        from bagpipe_hpc.training.trainer_batch import train_on_labels

        for batch in run_trainer(job.spec, topology, comms, request.build_model):
            if request.has_own_loop:
                yield batch
            else:
                train_on_labels(batch)
    return False


def _agree_on_job(launched: MPI.Intracomm, request: Request) -> tuple[MPI.Intracomm, _Job] | None:
    """The launcher's rank 0 reads the settings and deals the roles; the oracle validates all and tells everybody.

    Launchers kill the job at the first exit code: the message is out before any rank learns that it may leave.

    Returns:
        The world, in the order of roles, and the job; None where there is none, and somebody has said why.
    """
    places = launched.gather(place_of_this_rank())
    ordered: tuple[Config, list[str], list[int]] | None = None
    if places:
        with _explaining():
            check_launcher(os.environ, launched.size, MPI.Get_library_version(), shlex.join(["bagpipe", *sys.argv[1:]]))
            check_thread_level()
            config, lines = _read_config(request)
            ordered = config, lines, order_of_roles(places, config.roles)
    ordered = launched.bcast(ordered)
    if ordered is None:
        return None
    config, lines, order = ordered
    world = cast(MPI.Intracomm, launched.Split(0, order.index(launched.rank)))
    hosts = world.gather(socket.gethostname())
    job: _Job | None = None
    if hosts:
        with _explaining():
            job = _validate(hosts, config, lines, request)
    spec = world.bcast(job.spec if job else None)
    return (world, job or _Job(spec)) if spec else None


@contextmanager
def _explaining() -> Iterator[None]:
    """What is the user's to mend is said, once."""
    try:
        yield
    except BagpipeError as error:
        print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)


def _read_config(request: Request) -> tuple[Config, list[str]]:
    """All settings, and lines that say where they come from."""
    if request.evaluates_only:
        return _evaluation_config(request), []
    return settings_of_job(request.settings, _overrides(request), request.run_path, request.resume)


def _validate(hosts: list[str], config: Config, lines: list[str], request: Request) -> _Job:
    from bagpipe_hpc.data.dataset import open_dataset

    budget = Budget(seconds_left(request.time_limit, os.environ, time.time()), time.perf_counter())
    if not config.dense_optimizer.is_plain_sgd:
        from bagpipe_hpc.training.dense_optimizer import check_dense_optimizer  # imports torch, which takes seconds

        check_dense_optimizer(config.dense_optimizer)
    topology = Topology(len(hosts), config.roles.servers)
    iterations = None if request.traced is None else parse_iterations(request.traced)
    dataset = open_dataset(request.data_path)
    schema = dataset.schema
    if problem := misfit(config.model, schema):
        raise DatasetError(f"{request.data_path} {problem}")
    if problem := table_misfit(config, schema):
        raise ConfigError(problem)
    if config.model.factory is not None:
        from bagpipe_hpc.training.own_model import build_own_model, model_inputs

        build_own_model(config.model, model_inputs(config, schema), request.build_model)
    _check_evaluation(config, dataset, request)
    ownership = Ownership(_owned_directories(config, request))
    try:
        if request.evaluates_only:
            refuse_training(request.run_path)
        for line in lines:
            print(line, flush=True)
        start, checkpoints = _choose_checkpoint(config, topology, dataset, request)
        _begin_run_directory(config, request)
    except BaseException:
        ownership.release()
        raise
    spec = JobSpec(config, schema, iterations, start, checkpoints, request.predictions)
    print(describe(hosts, topology), flush=True)
    return _Job(spec, dataset, budget, ownership)


def _owned_directories(config: Config, request: Request) -> list[Path]:
    """Where a job writes: its run directory, and that of its checkpoints where it is another one."""
    directory = config.checkpoint.directory if config.checkpoint.enabled else None
    return [request.run_path, *([Path(directory)] if directory else [])]


def _begin_run_directory(config: Config, request: Request) -> None:
    run_path = request.run_path
    if (run_path / DONE).exists() and not request.evaluates_only and request.resume is None:
        print(
            f"bagpipe: note: {run_path} has a finished job: its settings, metrics and summary are replaced", flush=True
        )
    with writing_to(run_path):
        for name in (DONE, "summary.json"):
            (run_path / name).unlink(missing_ok=True)  # of an earlier run: it must not pass for this one's
        delete_traces(run_path)
    write_run_settings(run_path, config)


def _overrides(request: Request) -> list[str]:
    if request.build_model is None:
        return request.overrides
    from bagpipe_hpc.training.own_model import title_of  # imports torch, which takes seconds

    return [*request.overrides, f"model.factory={json.dumps(title_of(request.build_model))}"]


def _check_evaluation(config: Config, dataset: Dataset, request: Request) -> None:
    """Whoever asks for evaluations gets some."""
    evaluation = config.evaluation
    if dataset.split(evaluation.split).num_samples > 0:
        return
    if request.evaluates_only:
        raise DatasetError(f"{request.data_path} has no {evaluation.split} samples; choose the other --split")
    if evaluation.enabled and evaluation.every is not None:
        raise DatasetError(
            f"{request.data_path} has no {evaluation.split} samples, but evaluation.every is {evaluation.every}; "
            "choose the other evaluation.split, or leave evaluation.every out"
        )


def _evaluation_config(request: Request) -> Config:
    """The settings of the checkpoint, but for the training."""
    from bagpipe_hpc.checkpoint.checkpoint import Checkpoint

    assert request.resume is not None
    checkpoint = Checkpoint.open(Path(request.resume))
    settings = settings_of_checkpoint(checkpoint)
    require_named_factory(settings, Settings().overridden(request.overrides))
    only = ["checkpoint.enabled=false", "evaluation.enabled=true", "tensorboard=false"]
    only.append(f"training.iterations={checkpoint.manifest.iteration}")
    return settings.overridden([*request.overrides, *only]).validated()


def _choose_checkpoint(
    config: Config, topology: Topology, dataset: Dataset, request: Request
) -> tuple[Position, CheckpointSpec | None]:
    """Where training starts, and from which checkpoint."""
    from bagpipe_hpc.roles.resume import check_fit, check_position, keeps_caches, open_checkpoints, require_usable

    resume = request.resume
    if not config.checkpoint.enabled and resume is None:
        return BEGINNING, None
    root, generation, checkpoint = open_checkpoints(config, request.run_path, resume)
    if checkpoint is None:
        if resume is not None:
            print(f"{root} has no good checkpoint: training starts afresh", flush=True)
        return BEGINNING, CheckpointSpec(root, generation)
    start = check_fit(checkpoint, config, dataset)
    require_usable(checkpoint)
    if not request.evaluates_only:
        check_position(checkpoint, config, dataset)
    print(f"going on from {checkpoint.path}", flush=True)
    return start, CheckpointSpec(root, generation, checkpoint.path.resolve(), keeps_caches(checkpoint, topology))
