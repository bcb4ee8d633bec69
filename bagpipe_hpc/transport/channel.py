"""The stream of plans from the oracle to everybody."""

from __future__ import annotations

from collections import deque

from mpi4py import MPI

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.codec import Item, decode_plan
from bagpipe_hpc.protocol.plan import SnapshotOrder
from bagpipe_hpc.transport.byte_messages import receive_bytes
from bagpipe_hpc.waiting import note_step, waiting_for


class PlanSender:
    """The oracle's end: sends ahead of the receivers, but only so far.

    Synchronous-mode sends complete when the receiver has taken the message, so the number of incomplete ones bounds
    how far the oracle runs ahead, whatever MPI buffers.

    Args:
        comm: All ranks of the job, the oracle being rank 0.
        depth: Plans in flight per receiver.
    """

    def __init__(self, comm: MPI.Intracomm, depth: int) -> None:
        self._comm, self._depth = comm, depth
        self._in_flight: dict[int, deque[tuple[MPI.Request, bytes]]] = {rank: deque() for rank in range(1, comm.size)}
        self.bytes_sent = 0

    def has_room(self) -> bool:
        """Whether every receiver can be sent another plan. Drives progress; never blocks."""
        return max(self._drain().values()) < self._depth

    def slow_receivers(self) -> list[int]:
        """World ranks that have not taken as many plans as may be in flight. Safe in any thread."""
        return [rank for rank, queue in self._in_flight.items() if len(queue) >= self._depth]

    def is_idle(self) -> bool:
        """Whether every plan sent has been received. Drives progress; never blocks."""
        return not any(self._drain().values())

    def send(self, world_rank: int, message: bytes) -> None:
        """Start sending one encoded plan; returns at once."""
        request = self._comm.Issend([message, MPI.BYTE], world_rank)
        self._in_flight[world_rank].append((request, message))
        self.bytes_sent += len(message)

    def _drain(self) -> dict[int, int]:
        for queue in self._in_flight.values():
            while queue and queue[0][0].Test():
                queue.popleft()
        return {rank: len(queue) for rank, queue in self._in_flight.items()}


class PlanReceiver:
    """The other end: plans in order, then None."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm

    def is_waiting(self) -> bool:
        """Whether `next` would return at once."""
        return self._comm.Iprobe(0)

    def next(self) -> Item | None:
        """The next plan or snapshot; None after the last. Communication: waits for the oracle."""
        with trace.span("receive plan") as span:
            with waiting_for("the oracle: the next plan"):
                message = receive_bytes(self._comm, 0)
            note_step()
            plan = decode_plan(message)
            span.iteration = None if plan is None or isinstance(plan, SnapshotOrder) else plan.stream_position
            return plan
