"""The communicators of a job, one for each kind of traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from mpi4py import MPI

from bagpipe_hpc.topology import ORACLE_RANK, Role, Topology
from bagpipe_hpc.transport.collectives import duplicate, enter_together
from bagpipe_hpc.transport.memory import MemoryLink
from bagpipe_hpc.transport.ports import CommMailbox, CommWorld


@dataclass(frozen=True)
class Communicators:
    """What a rank speaks over.

    Args:
        world: All ranks; for handshakes at the start and the end.
        mailbox: From every rank to the oracle: losses, predictions, files of checkpoints, requests to stop.
        plans: From the oracle to every rank.
        row_comm: Servers (rank = server index), then trainers; MPI.COMM_NULL at the oracle.
        trainers: Trainers (rank = trainer rank); MPI.COMM_NULL at other ranks.
        link: Carries rows if the ranks are threads of one process, and the communicators then are in-memory ones; None
            if every rank is a process.
    """

    world: CommWorld
    mailbox: CommMailbox
    plans: MPI.Intracomm
    row_comm: MPI.Intracomm
    trainers: MPI.Intracomm
    link: MemoryLink | None
    _mailbox_comm: MPI.Intracomm

    def free(self) -> None:
        """Release all communicators but that of the world. Communication: collective over each of them."""
        for comm in (self._mailbox_comm, self.plans, self.row_comm, self.trainers):
            if comm != MPI.COMM_NULL:
                enter_together(comm)
                comm.Free()


def split_world(world: MPI.Intracomm, topology: Topology, link: MemoryLink | None = None) -> Communicators:
    """Make all communicators of a job. Communication: collective over world."""
    role = topology.role_of(world.rank)
    mailbox_comm = duplicate(world)
    return Communicators(
        world=CommWorld(world),
        mailbox=CommMailbox(mailbox_comm),
        plans=duplicate(world),
        row_comm=_split(world, MPI.UNDEFINED if world.rank == ORACLE_RANK else 0),
        trainers=_split(world, 0 if role is Role.TRAINER else MPI.UNDEFINED),
        link=link,
        _mailbox_comm=mailbox_comm,
    )


def reordered(comm: MPI.Intracomm, order: Sequence[int]) -> MPI.Intracomm:
    """Return a communicator of the same ranks in another order. Communication: collective over comm.

    Args:
        order: Ranks of comm in the order of the new communicator.
    """
    enter_together(comm)
    return cast(MPI.Intracomm, comm.Split(0, order.index(comm.rank)))


def ranks_of_host(comm: MPI.Comm) -> MPI.Intracomm:
    """Return the ranks of a communicator that run on this host. Communication: collective over comm."""
    enter_together(cast(MPI.Intracomm, comm))
    return cast(MPI.Intracomm, comm.Split_type(MPI.COMM_TYPE_SHARED))


def _split(world: MPI.Intracomm, color: int) -> MPI.Intracomm:
    # mpi4py types a split as Comm; splitting an intracommunicator gives one (or COMM_NULL).
    enter_together(world)
    return cast(MPI.Intracomm, world.Split(color, world.rank))
