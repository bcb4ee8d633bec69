"""Messages of any size between two ranks, over MPI or in memory. Waits poll (`polling.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from mpi4py import MPI

from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.transport.memory_comm import MemoryComm

Comm: TypeAlias = MPI.Intracomm
"""A communicator. In a local job a MemoryComm, which has all that a job asks of one, takes its place."""


def wait_all(requests: Sequence[MPI.Request]) -> None:
    """Complete all requests."""
    wait_until(lambda: are_complete(requests))


def start_all(requests: Sequence[MPI.Prequest]) -> None:
    """Start persistent requests."""
    if not requests:
        return
    if isinstance(requests[0], MPI.Prequest):
        MPI.Prequest.Startall(requests)  # type: ignore[arg-type]
    else:  # those of the in-memory communicator
        for request in requests:
            request.Start()


def are_complete(requests: Sequence[MPI.Request]) -> bool:
    """Return whether all requests are complete. This does not wait."""
    if not requests:
        return True
    if isinstance(requests[0], MPI.Request):
        return MPI.Request.Testall(requests)
    # those of the in-memory communicator
    return all(request.Test() for request in requests)


def take_bytes(comm: Comm, source: int, tag: int = MPI.ANY_TAG) -> tuple[int, bytearray] | None:
    """Return the source and the content of a message that has arrived; None if none has.

    The probe is a matched one: over UCX, MPICH loses messages that a plain probe has seen to receives from any source.

    Args:
        source: A rank, or MPI.ANY_SOURCE.
    """
    if isinstance(comm, MemoryComm):
        return comm.take(source, tag)
    status = MPI.Status()
    message = comm.Improbe(source, tag, status)
    if message is None:
        return None
    buffer = bytearray(status.Get_count(MPI.BYTE))
    wait_all([message.Irecv([buffer, MPI.BYTE])])
    return status.source, buffer


def receive_bytes(comm: Comm, source: int, tag: int = MPI.ANY_TAG) -> bytearray:
    """Return the content of the next message. Communication: waits for the message.

    Args:
        source: A rank, or MPI.ANY_SOURCE.
    """
    taken: tuple[int, bytearray] | None = None

    def arrived() -> bool:
        nonlocal taken
        taken = take_bytes(comm, source, tag)
        return taken is not None

    wait_until(arrived)
    assert taken is not None
    return taken[1]
