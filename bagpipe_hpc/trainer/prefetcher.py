"""The prefetch thread of a trainer: it receives plans and fetches their rows, up to P iterations ahead (paper 3.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from queue import Queue

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.polling import working_ns
from bagpipe_hpc.protocol.plan import SnapshotOrder, TrainerPlan
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.threaded_job import put, take
from bagpipe_hpc.trainer.buffers import BufferPool, HostBuffer, HostMemory
from bagpipe_hpc.trainer.device import Device
from bagpipe_hpc.trainer.iteration_timer import IterationTimer
from bagpipe_hpc.trainer.step import Stopwatch
from bagpipe_hpc.transport.base import TrainerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.waiting import waiting_for

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class FetchedRows:
    """The rows of a plan, on their way from the prefetch thread to the thread that inserts them.

    Args:
        plan: Of the iteration.
        rows: float32 (n, row_width), in the order of plan.fetch_slots; they stand in the buffer.
        buffer: Whoever inserts the rows gives it back to the pool.
        planned_at: When the plan arrived, by time.perf_counter_ns.
    """

    plan: TrainerPlan
    rows: Float32Array
    buffer: HostBuffer
    planned_at: int


class Prefetcher:
    """Receives plans and fetches their rows ahead of time. The numbers are those of trainer.py.

    Args:
        plans: From the oracle.
        end: Fetches rows from the servers.
        prefetch_depth: P.
        row_width: float32 columns of a row.
        device: Where the rows go next.
    """

    def __init__(
        self, plans: PlanReceiver, end: TrainerEnd, prefetch_depth: int, row_width: int, device: Device
    ) -> None:
        self.buffers = BufferPool(HostMemory(device))  # P + 2: one filled, P queued, one inserted
        self.work = IterationTimer(working_ns)
        self._plans = plans
        self._end = end
        self._row_width = row_width
        self._fetched: Queue[FetchedRows | SnapshotOrder | None] = Queue(maxsize=max(1, prefetch_depth))
        start_thread("prefetch", self._run)

    def _run(self) -> None:
        while (plan := self._plans.next()) is not None:  # 1
            if isinstance(plan, SnapshotOrder):
                put(self._fetched, plan)  # 9
                continue
            assert isinstance(plan, TrainerPlan)
            planned_at = time.perf_counter_ns()
            buffer = self.buffers.take()
            rows = buffer.rows(len(plan.fetch_slots), self._row_width)
            self._end.fetch(plan, rows)  # 2
            self.work.end_iteration(counts=not plan.read_only)
            with trace.span("queue wait", plan.stream_position):
                put(self._fetched, FetchedRows(plan, rows, buffer, planned_at))  # 3
        put(self._fetched, None)  # 10

    def next(self, watch: Stopwatch) -> FetchedRows | SnapshotOrder | None:
        """Return the next plan with its rows, or an order of a snapshot between two plans; None after the last.

        Args:
            watch: Gets the time of waiting, by its cause.
        """
        start = time.perf_counter_ns()
        with waiting_for("its prefetch thread"):
            fetched = take(self._fetched)
        stop = time.perf_counter_ns()
        if fetched is None or isinstance(fetched, SnapshotOrder):
            return fetched
        planned_at = min(max(start, fetched.planned_at), stop)
        watch.add("plan_wait", start, planned_at, fetched.plan.stream_position)
        watch.add("prefetch_wait", planned_at, stop, fetched.plan.stream_position)
        return fetched
