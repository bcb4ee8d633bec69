"""The small messages of the row transport: "the rows of plan n are ready", "the rows of plan n are written"."""

from __future__ import annotations

from mpi4py import MPI

from bagpipe_hpc import trace
from bagpipe_hpc.transport.byte_messages import receive_bytes, wait_all
from bagpipe_hpc.transport.collectives import duplicate, enter_together
from bagpipe_hpc.waiting import waiting_for


class Notices:
    """Sends and awaits the notices between servers and trainers, in the order of the stream of plans.

    The two kinds of notices have a communicator each, because a trainer waits for the one and sends the other from
    different threads.

    Args:
        comm: Servers first, then trainers.
        num_servers: S.
    Communication: construction and `free` are collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_servers: int) -> None:
        self._ready, self._written = duplicate(comm), duplicate(comm)
        self._servers = range(num_servers)
        self._trainers = range(num_servers, comm.size)

    def announce_ready(self, stream_position: int, payloads: list[bytes] | None = None) -> None:
        """At a server: tell every trainer. With the notice goes a payload for each trainer, if there are any."""
        with trace.span("announce", stream_position):
            notices = [_encode(stream_position) + payload for payload in payloads or [b""] * len(self._trainers)]
            sent = [
                self._ready.Isend([notice, MPI.BYTE], rank)
                for notice, rank in zip(notices, self._trainers, strict=True)
            ]
            wait_all(sent)

    def await_ready(self, stream_position: int) -> list[bytes]:
        """At a trainer: wait for every server, and return their payloads."""
        with trace.span("ready wait", stream_position):
            return [self._await(self._ready, rank, stream_position, f"server {rank}: rows") for rank in self._servers]

    def announce_written(self, stream_position: int) -> None:
        """At a trainer: tell every server."""
        notice = _encode(stream_position)
        wait_all([self._written.Isend([notice, MPI.BYTE], rank) for rank in self._servers])

    def await_written(self, stream_position: int) -> None:
        """At a server: wait for every trainer."""
        with trace.span("written wait", stream_position):
            for trainer, rank in enumerate(self._trainers):
                self._await(self._written, rank, stream_position, f"trainer {trainer}: write-backs")

    def _await(self, comm: MPI.Intracomm, rank: int, stream_position: int, what: str) -> bytes:
        with waiting_for(f"{what} of plan {stream_position}"):
            return _receive(comm, rank, stream_position)

    def progress(self) -> None:
        """Let MPI carry out what other ranks want of this one, and return at once."""
        self._written.Iprobe()

    def free(self) -> None:
        enter_together(self._ready)
        self._ready.Free()
        self._written.Free()


def _encode(stream_position: int) -> bytes:
    return stream_position.to_bytes(8, "little")


def _receive(comm: MPI.Intracomm, source: int, stream_position: int) -> bytes:
    message = bytes(receive_bytes(comm, source))
    arrived = int.from_bytes(message[:8], "little")
    if arrived != stream_position:
        raise RuntimeError(f"the notice of plan {arrived} arrived instead of that of plan {stream_position}")
    return message[8:]
