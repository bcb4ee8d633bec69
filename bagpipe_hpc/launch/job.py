"""A training job on one rank: what the oracle decides before the start, and who then does what."""

from __future__ import annotations

import atexit
import json
import os
import shlex
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mpi4py import MPI

from bagpipe_hpc.activity import showing_activity
from bagpipe_hpc.checkpoint.partial import discard_unfinished, forget_unfinished
from bagpipe_hpc.config import Config, Settings
from bagpipe_hpc.errors import BagpipeError, ConfigError, DatasetError, JobStopped, OwnModelError
from bagpipe_hpc.exit_codes import exit_code_of
from bagpipe_hpc.garbage_collection import resume_collector
from bagpipe_hpc.launch.local import LocalRanks, local_world, require_one_process
from bagpipe_hpc.launch.place import place_of_this_rank
from bagpipe_hpc.launch.role_placement import Place, describe, order_of_roles
from bagpipe_hpc.launch.run_settings import (
    require_named_factory,
    settings_of_checkpoint,
    settings_of_job,
    write_run_settings,
)
from bagpipe_hpc.launcher import await_first_rank, check_launcher, launched_rank
from bagpipe_hpc.runtime.data_position import BEGINNING, Position
from bagpipe_hpc.runtime.failure import abort_job, whole_job_fails_together
from bagpipe_hpc.runtime.file_writer import CheckpointSpec
from bagpipe_hpc.runtime.process_limits import open_files_limit, require_open_files
from bagpipe_hpc.runtime.run_directory import DONE, refuse_training, writing_to
from bagpipe_hpc.runtime.run_lock import Ownership
from bagpipe_hpc.runtime.signals import Budget, StopRequests, listening_for_signals, seconds_left
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.runtime.tracing import tracing
from bagpipe_hpc.runtime.watchdog import watching
from bagpipe_hpc.timeline.merge import delete_traces
from bagpipe_hpc.topology import ORACLE_RANK, Role, Topology
from bagpipe_hpc.trace import parse_iterations
from bagpipe_hpc.trainer.model_check import misfit, table_misfit
from bagpipe_hpc.transport.communicators import Communicators, check_thread_level, split_world
from bagpipe_hpc.transport.memory import MemoryLink
from bagpipe_hpc.waiting import name_rank

if TYPE_CHECKING:
    from bagpipe_hpc.data.dataset import Dataset
    from bagpipe_hpc.trainer.trainer_batch import TrainerBatch

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What the command line, or a program, asks for.

    Args:
        settings: A YAML file, settings by section, or a configuration; None: the defaults.
        traced: Iterations to trace, as A:B; None: tracing is off.
        resume: "auto", "latest", "best", the path of a checkpoint, or None.
        evaluates_only: Whether to load the checkpoint, with the settings it was made with, and to train no further.
        predictions: Where those of the evaluation go.
        time_limit: A duration; None: until the end of the batch job, where its environment says when that is.
        build_model: Makes the model in place of model.factory.
        has_own_loop: Whether who asks makes the steps.
        is_local: Whether all ranks are threads of this process.
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
    is_local: bool = False


def run_training(request: Request) -> int:
    """Train, as this rank's role; only the oracle reads the configuration and the data. What ends it is printed once.

    Returns:
        The exit code, the same on every rank: see `Training.error`.
    Communication: collective over MPI_COMM_WORLD, unless the job is local.
    """
    training = Training()
    for _ in training.play(request):
        raise AssertionError("a step of the built-in loop is not for others to make")
    training.print_error()
    return exit_code_of(training.error)


class Training:
    """A job on this rank, played by whoever iterates.

    `name` is what messages call this rank. Once the job is over, `error` is the same on every rank: None where it came
    to its end; what is wrong with the settings, the data, the checkpoint or the number of ranks, before any work;
    JobStopped where the job was asked to stop, DivergedError where it diverged. Any other failure ends all ranks, or is
    raised where the job is local.
    """

    _is_playing = False  # in this process

    def __init__(self) -> None:
        self.name = "this rank"
        self.error: BagpipeError | None = None
        self.is_local = False

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that prints what all ranks know."""
        return launched_rank(os.environ) == 0 if self.is_local else bool(MPI.COMM_WORLD.rank == 0)

    def print_error(self) -> None:
        """Print the error, at one rank. That a job was stopped the oracle has said when it was.

        Communication: collective over MPI_COMM_WORLD, unless the job is local.
        """
        if self.error is not None and not isinstance(self.error, JobStopped):
            if self.is_local:
                await_first_rank(os.environ)
            if self.speaks:
                print(f"bagpipe: error: {self.error}", file=sys.stderr, flush=True)
        if not self.is_local:
            MPI.COMM_WORLD.Barrier()  # launchers end all ranks at the first exit code: the message is out before

    def play(self, request: Request) -> Generator[TrainerBatch, None, None]:
        """Play; with an own loop, trainers yield their batches, and go on when the step has been made.

        Raises:
            OwnModelError: another job is being played.
        Communication: as `run_training`.
        """
        self.is_local = request.is_local
        if Training._is_playing:
            raise OwnModelError(
                "a job was started while this process plays another; a script that is imported as the module of "
                'model.factory starts its own only under `if __name__ == "__main__":`'
            )
        Training._is_playing = True
        try:
            with warnings.catch_warnings():  # libraries add filters when they are imported
                self.error = yield from (_play_local if request.is_local else _play)(self, request)
        finally:
            Training._is_playing = False
            name_rank("")


def _play(training: Training, request: Request) -> Generator[TrainerBatch, None, BagpipeError | None]:
    """Every rank is a process."""
    _start_mpi()
    launched = MPI.COMM_WORLD
    training.name = f"rank {launched.rank}"
    with whole_job_fails_together(training.name), _saying_at("checking the job", launched.rank == 0):
        agreed = _agree_on_job(launched, request)
    if isinstance(agreed, BagpipeError):
        return agreed
    world, job = agreed
    spec = job.spec
    topology = Topology(world.size, spec.config.roles.servers)
    training.name = name = topology.name_of(world.rank)
    name_rank(name)
    watched = watching(
        spec.config.watchdog, request.run_path, topology, [world.rank], lambda error: abort_job(name, error)
    )
    with whole_job_fails_together(name), watched:
        comms = split_world(world, topology)
        stops = StopRequests(comms.events)
        # Ranks 0 and 1 both print notes, so they are seen even if one of them dies.
        speaking = listening_for_signals(stops, name, speaks=world.rank < 2)
        with tracing(world, topology, spec.traced, request.run_path), speaking:
            error: BagpipeError | None = world.bcast((yield from _play_role(job, topology, comms, stops, request)))
        comms.free()
        forget_unfinished()
        job.release()
        world.Barrier()  # launchers kill the job at the first exit code that is not 0
        world.Free()
    return error


def _saying_at(phase: str, is_speaker: bool) -> AbstractContextManager[object]:
    """Show what the block does, at one rank."""
    return showing_activity(phase) if is_speaker else nullcontext()


def _start_mpi() -> None:
    """Start MPI, where a local job before this one has kept mpi4py from it."""
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        atexit.register(MPI.Finalize)


def _play_local(training: Training, request: Request) -> Generator[TrainerBatch, None, BagpipeError | None]:
    """Every rank is a thread of this process; trainer 0 is the calling one."""
    with _saying_at("checking the job", training.speaks):
        checked = _attempt(lambda: _check_local(request))
    if isinstance(checked, BagpipeError):
        return checked
    worlds, topology, job = checked
    link = MemoryLink(topology.num_servers, topology.num_trainers)
    trainer = topology.trainer_ranks[0]
    training.name = topology.name_of(trainer)
    ranks = LocalRanks(topology)
    rank_job = _Job(job.spec)  # as the ranks but for the oracle see it

    def play(world_rank: int) -> Generator[TrainerBatch, None, BagpipeError | None]:
        name_rank(topology.name_of(world_rank))
        comms = split_world(worlds[world_rank], topology, link)
        stops = StopRequests(comms.events)
        is_trainer = world_rank == trainer
        speaking = listening_for_signals(stops, "this job", speaks=True, end_at_once=interrupt) if is_trainer else None
        with tracing(comms.world, topology, job.spec.traced, request.run_path), speaking or nullcontext():
            mine = job if world_rank == ORACLE_RANK else rank_job
            ended = comms.world.bcast((yield from _play_role(mine, topology, comms, stops, request)))
        return cast(BagpipeError | None, ended)

    def interrupt(signum: signal.Signals) -> None:
        ranks.job.fail("this job", KeyboardInterrupt(f"{signum.name} came for the second time"))

    error: BagpipeError | None = None
    try:
        all_ranks = list(range(topology.world_size))
        watched = watching(
            job.spec.config.watchdog, request.run_path, topology, all_ranks, lambda error: ranks.job.fail("it", error)
        )
        with ranks.ending_together(training.name), watched:
            for world_rank in range(topology.world_size):
                if world_rank != trainer:
                    ranks.start(world_rank, partial(_play_out, play, world_rank))
            error = yield from play(trainer)
        forget_unfinished()
    finally:
        discard_unfinished()  # of a job that failed
        job.release()
    return error


def _play_out(play: Callable[[int], Generator[TrainerBatch, None, object]], world_rank: int) -> None:
    """Play a rank that is no trainer, so that it yields nothing."""
    for _ in play(world_rank):
        raise AssertionError("only trainers yield batches")


def _check_local(request: Request) -> tuple[list[MPI.Intracomm], Topology, _Job]:
    require_one_process(os.environ)
    require_open_files(open_files_limit(), 1)
    config, lines = _read_config(request)
    worlds, topology = local_world(config.roles.servers)
    return worlds, topology, _validate([socket.gethostname()] * topology.world_size, config, lines, request)


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
) -> Generator[TrainerBatch, None, BagpipeError | None]:
    """Returns, at the oracle, how the job ended before its end."""
    # Imported here: torch and Horovod only where they are used.
    role = topology.role_of(comms.world.rank)
    if role is Role.ORACLE:
        from bagpipe_hpc.oracle.oracle import run_oracle

        resume_collector()
        assert job.dataset is not None
        assert job.budget is not None
        assert job.ownership is not None
        return run_oracle(
            job.spec, topology, comms, job.dataset, request.run_path, stops, job.budget, job.ownership.require
        )
    if role is Role.SERVER:
        from bagpipe_hpc.server.server import run_server

        resume_collector()
        run_server(job.spec, topology, comms)
    else:
        from bagpipe_hpc.trainer.torch_state import keeping_torch
        from bagpipe_hpc.trainer.trainer import run_trainer
        from bagpipe_hpc.trainer.trainer_batch import train_on_labels

        with keeping_torch():
            for batch in run_trainer(job.spec, topology, comms, request.build_model):
                if request.has_own_loop:
                    yield batch
                else:
                    train_on_labels(batch)
    return None


def _agree_on_job(launched: MPI.Intracomm, request: Request) -> tuple[MPI.Intracomm, _Job] | BagpipeError:
    """The launcher's rank 0 reads the settings and deals the roles; the oracle validates all and tells everybody.

    Returns:
        The world, in the order of roles, and the job; the same error on all ranks where there is none.
    """
    places = launched.gather(place_of_this_rank())
    open_files = launched.gather(open_files_limit())
    ordered: tuple[Config, list[str], list[int]] | BagpipeError | None = None
    if places:
        assert open_files is not None
        ordered = _attempt(lambda: _order(min(open_files), places, request))
    ordered = launched.bcast(ordered)
    assert ordered is not None
    if isinstance(ordered, BagpipeError):
        return ordered
    config, lines, order = ordered
    world = cast(MPI.Intracomm, launched.Split(0, order.index(launched.rank)))
    hosts = world.gather(socket.gethostname())
    job: _Job | BagpipeError | None = None
    if hosts:
        job = _attempt(lambda: _validate(hosts, config, lines, request))
    spec: JobSpec | BagpipeError = world.bcast(job.spec if isinstance(job, _Job) else job)
    if isinstance(spec, BagpipeError):
        world.Free()
        return spec
    return world, job if isinstance(job, _Job) else _Job(spec)


def _attempt(work: Callable[[], T]) -> T | BagpipeError:
    """What the work returns, or the error that the user can mend, for all ranks to know."""
    try:
        return work()
    except BagpipeError as error:
        return error.with_traceback(None)


def _order(open_files: int, places: list[Place], request: Request) -> tuple[Config, list[str], list[int]]:
    """The settings, lines that say where they come from, and the launcher's ranks in the order of roles."""
    command = shlex.join(["bagpipe", *sys.argv[1:]])
    check_launcher(os.environ, len(places), MPI.Get_library_version(), command)
    check_thread_level()
    require_open_files(open_files, len(places))
    config, lines = _read_config(request)
    return config, lines, order_of_roles(places, config.roles)


def _read_config(request: Request) -> tuple[Config, list[str]]:
    """All settings, and lines that say where they come from."""
    if request.evaluates_only:
        return _evaluation_config(request), []
    return settings_of_job(request.settings, _overrides(request), request.run_path, request.resume)


def _validate(hosts: list[str], config: Config, lines: list[str], request: Request) -> _Job:
    from bagpipe_hpc.data.dataset import open_dataset, require_labels
    from bagpipe_hpc.oracle.metrics import require_new_output

    if request.predictions is not None:
        require_new_output(request.predictions)
    budget = Budget(seconds_left(request.time_limit, os.environ, time.time()), time.perf_counter())
    if not config.dense_optimizer.is_plain_sgd:
        from bagpipe_hpc.trainer.dense_optimizer import check_dense_optimizer  # imports torch, which takes seconds

        check_dense_optimizer(config.dense_optimizer)
    topology = Topology(len(hosts), config.roles.servers)
    iterations = None if request.traced is None else parse_iterations(request.traced)
    dataset = open_dataset(request.data_path)
    if request.predictions is None:
        require_labels(dataset, "an evaluation" if request.evaluates_only else "training")
    schema = dataset.schema
    if problem := misfit(config.model, schema):
        raise DatasetError(f"{request.data_path} {problem}")
    if problem := table_misfit(config, schema):
        raise ConfigError(problem)
    if config.model.factory is not None:
        from bagpipe_hpc.trainer.own_model import build_own_model, model_inputs
        from bagpipe_hpc.trainer.torch_state import keeping_torch

        with keeping_torch():
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
    spec = JobSpec(
        config, schema, iterations, start, checkpoints, request.predictions, evaluates_only=request.evaluates_only
    )
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
    from bagpipe_hpc.trainer.own_model import title_of  # imports torch, which takes seconds

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
    from bagpipe_hpc.launch.resume import (
        check_fit,
        check_position,
        keeps_caches,
        open_checkpoints,
        require_usable,
        shown_trainers,
    )

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
    for line in shown_trainers(checkpoint, topology) if not request.evaluates_only else []:
        print(line, flush=True)
    return start, CheckpointSpec(root, generation, checkpoint.path.resolve(), keeps_caches(checkpoint, topology))
