"""The stream of plans from the oracle to every other rank."""

from __future__ import annotations

from collections import deque

from mpi4py import MPI

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.codec import Item, decode_plan
from bagpipe_hpc.protocol.plan import SnapshotOrder
from bagpipe_hpc.transport.byte_messages import receive_bytes
from bagpipe_hpc.waiting import note_step, waiting_for


class PlanSender:
    """The side of the oracle, the port PlanOutlet. It sends a bounded number of plans ahead of each receiver.

    A synchronous-mode send is complete when the receiver has taken the message. So the number of incomplete sends
    bounds how far the oracle runs ahead, whatever MPI buffers.

    Args:
        comm: All ranks of the job; the oracle is rank 0.
        depth: Plans that may be under way to one receiver.
    """

    def __init__(self, comm: MPI.Intracomm, depth: int) -> None:
        self._comm, self._depth = comm, depth
        self._in_flight: dict[int, deque[tuple[MPI.Request, bytes]]] = {rank: deque() for rank in range(1, comm.size)}
        self.bytes_sent = 0

    def has_room(self) -> bool:
        """See PlanOutlet."""
        return max(self._drain().values()) < self._depth

    def slow_receivers(self) -> list[int]:
        """See PlanOutlet."""
        return [rank for rank, queue in self._in_flight.items() if len(queue) >= self._depth]

    def is_idle(self) -> bool:
        """See PlanOutlet."""
        return not any(self._drain().values())

    def send(self, world_rank: int, message: bytes) -> None:
        """See PlanOutlet."""
        request = self._comm.Issend([message, MPI.BYTE], world_rank)
        self._in_flight[world_rank].append((request, message))
        self.bytes_sent += len(message)

    def _drain(self) -> dict[int, int]:
        for queue in self._in_flight.values():
            while queue and queue[0][0].Test():
                queue.popleft()
        return {rank: len(queue) for rank, queue in self._in_flight.items()}


class PlanReceiver:
    """The side of a server or a trainer. `next` returns plans and orders of snapshots, in order, then None.

    Args:
        comm: All ranks of the job; the oracle is rank 0.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm

    def has_message(self) -> bool:
        """Return whether `next` would return at once."""
        return self._comm.Iprobe(0)

    def next(self) -> Item | None:
        """Return the next plan or order of a snapshot; None after the last one. Communication: waits for the oracle."""
        with trace.span("receive plan") as span:
            with waiting_for("the oracle: the next plan"):
                message = receive_bytes(self._comm, 0)
            note_step()
            plan = decode_plan(message)
            span.iteration = None if plan is None or isinstance(plan, SnapshotOrder) else plan.stream_position
            return plan
