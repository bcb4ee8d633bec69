"""The communicators of a job: one per kind of traffic, so that threads never share one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from mpi4py import MPI

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.topology import ORACLE_RANK, Role, Topology
from bagpipe_hpc.transport.memory import MemoryLink


@dataclass(frozen=True)
class Communicators:
    """What a rank speaks over.

    Args:
        world: Collectives at the start and the end; never used while training.
        plans: Oracle -> everybody.
        reports: Trainers -> oracle.
        events: Everybody -> oracle: files of checkpoints, signals.
        rows: Servers (rank = server index), then trainers; COMM_NULL at the oracle.
        trainers: Trainers only (rank = trainer rank); COMM_NULL elsewhere.
        link: Carries rows where the ranks are threads of one process, and all communicators in-memory twins; None where
            every rank is a process.
    """

    world: MPI.Intracomm
    plans: MPI.Intracomm
    reports: MPI.Intracomm
    events: MPI.Intracomm
    rows: MPI.Intracomm
    trainers: MPI.Intracomm
    link: MemoryLink | None = None

    def free(self) -> None:
        """Release all but the world. Communication: collective over each of them."""
        for comm in (self.plans, self.reports, self.events, self.rows, self.trainers):
            if comm != MPI.COMM_NULL:
                comm.Free()


def split_world(world: MPI.Intracomm, topology: Topology, link: MemoryLink | None = None) -> Communicators:
    """Make all communicators. Communication: collective over world."""
    role = topology.role_of(world.rank)
    rows_color = MPI.UNDEFINED if world.rank == ORACLE_RANK else 0
    trainers_color = 0 if role is Role.TRAINER else MPI.UNDEFINED
    return Communicators(
        world=world,
        plans=world.Dup(),
        reports=world.Dup(),
        events=world.Dup(),
        rows=_split(world, rows_color),
        trainers=_split(world, trainers_color),
        link=link,
    )


def trainers_of_node(comms: Communicators) -> MPI.Intracomm:
    """The trainers of this host. Communication: collective over the trainers."""
    return cast(MPI.Intracomm, comms.trainers.Split_type(MPI.COMM_TYPE_SHARED))


def _split(world: MPI.Intracomm, color: int) -> MPI.Intracomm:
    # mpi4py types a split as Comm; splitting an intracommunicator gives one (or COMM_NULL).
    return cast(MPI.Intracomm, world.Split(color, world.rank))


def check_thread_level() -> None:
    """Training needs MPI calls from several threads at once.

    Raises:
        PlatformError: MPI grants less.
    """
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise PlatformError(
            f"{MPI.Get_library_version().splitlines()[0]} grants thread level {MPI.Query_thread()}, training needs "
            f"MPI_THREAD_MULTIPLE ({MPI.THREAD_MULTIPLE}): use an MPI built with thread support (see `bagpipe doctor`)"
        )
