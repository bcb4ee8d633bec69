"""The ports of the protocol over communicators: see `protocol/ports.py`."""

from __future__ import annotations

import threading

from mpi4py import MPI

from bagpipe_hpc.topology import ORACLE_RANK
from bagpipe_hpc.transport.byte_messages import Comm, receive_bytes, take_bytes, wait_all
from bagpipe_hpc.transport.collectives import broadcast_bytes, gather_bytes


class CommWorld:
    """The port World.

    Args:
        comm: All ranks of the job; used by one thread of each rank.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm = comm

    @property
    def rank(self) -> int:
        """See World."""
        return self._comm.rank

    def gather(self, content: bytes) -> list[bytes] | None:
        """See World."""
        return gather_bytes(self._comm, content)

    def broadcast(self, content: bytes | None) -> bytes:
        """See World."""
        return broadcast_bytes(self._comm, content)

    def send(self, content: bytes, rank: int) -> None:
        """See World."""
        wait_all([self._comm.Isend([content, MPI.BYTE], rank)])

    def receive(self, rank: int) -> bytes:
        """See World."""
        return bytes(receive_bytes(self._comm, rank))


class CommMailbox:
    """The port Mailbox. Several threads of a rank may send at the same time.

    Args:
        comm: All ranks of the job.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._lock = threading.Lock()
        self._under_way: list[tuple[MPI.Request, bytes]] = []  # MPI reads the bytes until the request is complete

    def send(self, content: bytes) -> None:
        """See Mailbox."""
        with self._lock:
            self._under_way = [(request, sent) for request, sent in self._under_way if not request.Test()]
            request = self._comm.Isend([content, MPI.BYTE], ORACLE_RANK)
            self._under_way.append((request, content))

    def take(self) -> bytes | None:
        """See Mailbox."""
        taken = take_bytes(self._comm, MPI.ANY_SOURCE)
        return None if taken is None else bytes(taken[1])

    def finish(self) -> None:
        """See Mailbox."""
        with self._lock:
            under_way, self._under_way = self._under_way, []
        wait_all([request for request, _ in under_way])
