"""A training job on one rank, from the request to the end. The ranks are processes or threads."""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from bagpipe_hpc.activity import showing_activity
from bagpipe_hpc.checkpoint.partial import discard_unfinished, forget_unfinished
from bagpipe_hpc.errors import BagpipeError, JobStopped, OwnModelError
from bagpipe_hpc.exit_codes import exit_code_of
from bagpipe_hpc.garbage_collection import resume_collector
from bagpipe_hpc.launch.agreement import AgreedJob, agree_on_job, attempt, check_for_all
from bagpipe_hpc.launch.local import LocalRanks, local_world, require_one_process
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.launcher import await_first_rank, launched_rank
from bagpipe_hpc.protocol.handshakes import agree_on_outcome
from bagpipe_hpc.protocol.inbox import Inbox, Outbox
from bagpipe_hpc.protocol.messages import StopRequest
from bagpipe_hpc.runtime.failure import abort_job, whole_job_fails_together
from bagpipe_hpc.runtime.process_limits import open_files_limit, require_open_files
from bagpipe_hpc.runtime.signals import listening_for_signals
from bagpipe_hpc.runtime.starting_point import StartingPoint
from bagpipe_hpc.runtime.tracing import tracing
from bagpipe_hpc.runtime.watchdog import watching
from bagpipe_hpc.topology import ORACLE_RANK, Role, Topology
from bagpipe_hpc.trainer.code_directory import name_directory
from bagpipe_hpc.trainer.offer import TrainerOffer
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.channel import PlanSender
from bagpipe_hpc.transport.collectives import enter_together
from bagpipe_hpc.transport.communicators import Communicators, split_world
from bagpipe_hpc.transport.memory import MemoryLink
from bagpipe_hpc.transport.mpi import launched_ranks, library_version, start_mpi
from bagpipe_hpc.waiting import name_rank

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.trainer_batch import TrainerBatch

PLANS_IN_FLIGHT = 4  # how many plans may be on their way to each receiver


def run_training(request: Request) -> int:
    """Play the role of this rank in a training job. If the job ends early, one rank prints why.

    Returns:
        The exit code, the same on every rank; see `Training.error`.
    Communication: collective over MPI_COMM_WORLD, unless the job is local.
    """
    training = Training()
    for _ in training.play(request):
        raise AssertionError("the built-in loop makes its steps itself")
    training.print_error()
    return exit_code_of(training.error)


class Training:
    """A job on this rank. The caller iterates over `play`.

    `name` is the name of this rank in messages. `is_local` says whether the ranks are threads of this process. Once the
    job is over, `error` is the same on every rank:

    - None if the job came to its end.
    - An error about the settings, the data, the checkpoint or the number of ranks, if one of them is wrong. The job has
      not started then.
    - JobStopped if a signal or the time limit stopped the job.
    - DivergedError if training diverged.
    - TableFullError if a dynamic table has no row left for a new id.

    Any other failure ends all ranks or, if the job is local, is raised.
    """

    _is_playing = False  # whether this process plays a job

    def __init__(self) -> None:
        self.name = "this rank"
        self.error: BagpipeError | None = None
        self.is_local = False

    @property
    def prints(self) -> bool:
        """Whether this process prints messages about errors that all ranks have."""
        return (launched_rank(os.environ) if self.is_local else launched_ranks().rank) == 0

    def print_error(self) -> None:
        """Print the error, at one rank. If the job was stopped, the oracle has printed this already.

        Communication: collective over MPI_COMM_WORLD, unless the job is local.
        """
        if self.error is not None and not isinstance(self.error, JobStopped):
            if self.is_local:
                await_first_rank(os.environ)
            if self.prints:
                print(f"bagpipe: error: {self.error}", file=sys.stderr, flush=True)
        if not self.is_local:
            # The message must be printed first: launchers end all ranks at an exit code.
            enter_together(launched_ranks())

    def play(self, request: Request) -> Generator[TrainerBatch, None, None]:
        """Play the role of this rank.

        If the caller makes the steps itself, a trainer yields each of its batches, and goes on after the step.

        Raises:
            OwnModelError: this process plays another job already.
        Communication: collective over MPI_COMM_WORLD, unless the job is local.
        """
        self.is_local = request.is_local
        if Training._is_playing:
            raise OwnModelError(
                "a job was started while this process plays another one; a script that model.factory names is imported "
                'by each trainer, so it must start its own job under `if __name__ == "__main__":` only'
            )
        Training._is_playing = True
        name_directory()
        try:
            with warnings.catch_warnings():  # libraries change the filters of warnings when they are imported
                self.error = yield from (_play_local if request.is_local else _play)(self, request)
        finally:
            Training._is_playing = False
            name_rank("")

    def play_with(self, request: Request, step: Callable[[TrainerBatch], object]) -> None:
        """Play the role of this rank, and call `step` on each batch of a trainer.

        If `step` raises, this rank has failed, and all ranks end with the error.
        Communication: collective over MPI_COMM_WORLD, unless the job is local.
        """
        batches = self.play(request)
        for batch in batches:
            try:
                step(batch)
            except BaseException as error:  # the generator would see no more of it than its own end
                batches.throw(error)


def _play(training: Training, request: Request) -> Generator[TrainerBatch, None, BagpipeError | None]:
    """Play a job whose ranks are processes."""
    start_mpi()
    launched = launched_ranks()
    training.name = f"rank {launched.rank}"
    with whole_job_fails_together(training.name), _showing("checking the job", launched.rank == 0):
        agreed = agree_on_job(launched, request)
    if isinstance(agreed, BagpipeError):
        return agreed
    world, job = agreed
    config = job.spec.config
    topology = Topology(world.size, config.roles.servers)
    training.name = name = topology.name_of(world.rank)
    name_rank(name)
    watched = watching(config, request.run_path, topology, [world.rank], lambda error: abort_job(name, error))
    with whole_job_fails_together(name), watched:
        comms = split_world(world, topology)
        # Ranks 0 and 1 both print notes, so they are seen even if one of them dies.
        prints = world.rank < 2
        error = yield from _play_role(job, topology, comms, world, request, name, prints=prints)
        comms.free()
        forget_unfinished()
        job.release()
        # All ranks must be done first: launchers kill the job at the first exit code that is not 0.
        enter_together(world)
        world.Free()
    return error


def _showing(phase: str, prints: bool) -> AbstractContextManager[object]:
    """Show what the block does, if this rank prints."""
    return showing_activity(phase) if prints else nullcontext()


def _play_local(training: Training, request: Request) -> Generator[TrainerBatch, None, BagpipeError | None]:
    """Play a job whose ranks are threads of this process. The calling thread is trainer 0."""
    with _showing("checking the job", training.prints):
        checked = attempt(lambda: _check_local(request))
    if isinstance(checked, BagpipeError):
        return checked
    worlds, topology, job = checked
    link = MemoryLink(topology.num_servers, topology.num_trainers)
    trainer = topology.trainer_ranks[0]
    training.name = topology.name_of(trainer)
    ranks = LocalRanks(topology)

    def play(world_rank: int) -> Generator[TrainerBatch, None, BagpipeError | None]:
        name_rank(topology.name_of(world_rank))
        world = worlds[world_rank]
        comms = split_world(world, topology, link)
        mine = job if world_rank == ORACLE_RANK else AgreedJob(job.spec, StartingPoint.of(job.spec))
        listens = world_rank == trainer
        return (
            yield from _play_role(
                mine, topology, comms, world, request, "this job", prints=True, listens=listens, end_at_once=interrupt
            )
        )

    def interrupt(signum: signal.Signals) -> None:
        ranks.job.fail("this job", KeyboardInterrupt(f"got {signum.name} after an earlier signal"))

    error: BagpipeError | None = None
    try:
        all_ranks = list(range(topology.world_size))
        watched = watching(
            job.spec.config, request.run_path, topology, all_ranks, lambda error: ranks.job.fail("it", error)
        )
        with ranks.ending_together(training.name), watched:
            for world_rank in range(topology.world_size):
                if world_rank != trainer:
                    ranks.start(world_rank, partial(_play_out, play, world_rank))
            error = yield from play(trainer)
        forget_unfinished()
    finally:
        discard_unfinished()  # only a job that has failed leaves unfinished checkpoints
        job.release()
    return error


def _play_out(play: Callable[[int], Generator[TrainerBatch, None, object]], world_rank: int) -> None:
    """Play a rank that is not a trainer, so it yields no batches."""
    for _ in play(world_rank):
        raise AssertionError("only trainers yield batches")


def _check_local(request: Request) -> tuple[list[Comm], Topology, AgreedJob]:
    from bagpipe_hpc.launch.validation import read_config

    require_one_process(os.environ)
    require_open_files(open_files_limit(), 1)
    config, lines = read_config(request)
    worlds, topology = local_world(config.roles.servers)
    hosts = [socket.gethostname()] * topology.world_size
    checked = check_for_all(hosts, [TrainerOffer.of_this_rank(0, config)], config, lines, request)
    if isinstance(checked, BagpipeError):
        raise checked
    return worlds, topology, AgreedJob(checked.spec, checked.start, checked)


def _play_role(
    job: AgreedJob,
    topology: Topology,
    comms: Communicators,
    world: Comm,
    request: Request,
    name: str,
    *,
    prints: bool,
    listens: bool = True,
    end_at_once: Callable[[signal.Signals], object] | None = None,
) -> Generator[TrainerBatch, None, BagpipeError | None]:
    """Play the role of one rank.

    Args:
        job: The job.
        topology: The roles of the ranks.
        comms: The communicators of this rank.
        world: All ranks in the order of roles.
        request: The request for the job.
        name: The name of this rank in notes about signals.
        prints: Whether this rank prints notes about signals.
        listens: Whether this rank listens for signals.
        end_at_once: Called for a second signal. None: it ends the process.
    Returns:
        Why the job ended before its end, the same at every rank; None if it did not.
    Communication: collective over world.
    """
    is_oracle = topology.role_of(comms.world.rank) is Role.ORACLE
    inbox = Inbox(comms.mailbox)
    outbox = Outbox(comms.mailbox)

    def ask_to_stop(reason: str) -> None:
        (inbox if is_oracle else outbox).send(StopRequest(reason))

    listening = listening_for_signals(ask_to_stop, name, prints=prints, end_at_once=end_at_once)
    traced = None if job.spec.traced is None else range(*job.spec.traced)
    with tracing(world, topology, traced, request.run_path), listening if listens else nullcontext():
        if is_oracle:
            error = _play_oracle(job, topology, comms, inbox)
        else:
            error = None
            yield from _play_server_or_trainer(job, topology, comms, request)
        return agree_on_outcome(comms.world, error)


def _play_oracle(job: AgreedJob, topology: Topology, comms: Communicators, inbox: Inbox) -> BagpipeError | None:
    from bagpipe_hpc.oracle.oracle import OraclePorts, run_oracle

    assert job.checked is not None
    resume_collector()
    ports = OraclePorts(comms.world, PlanSender(comms.plans, PLANS_IN_FLIGHT), inbox, library_version())
    return run_oracle(job.spec, job.checked.oracle_job, topology, ports)


def _play_server_or_trainer(
    job: AgreedJob, topology: Topology, comms: Communicators, request: Request
) -> Generator[TrainerBatch, None, None]:
    # A server does not need torch, which takes seconds to import. So each role imports what it needs.
    if topology.role_of(comms.world.rank) is Role.SERVER:
        from bagpipe_hpc.server.server import run_server

        resume_collector()
        run_server(job.spec, job.start, topology, comms)
        return
    from bagpipe_hpc.trainer.torch_state import keeping_torch
    from bagpipe_hpc.trainer.trainer import run_trainer
    from bagpipe_hpc.trainer.trainer_batch import train_on_labels

    with keeping_torch():
        for batch in run_trainer(job.spec, job.start, topology, comms, request.build_model):
            if request.has_own_loop:
                yield batch
            else:
                train_on_labels(batch)
