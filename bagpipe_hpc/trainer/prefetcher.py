"""The prefetch thread of a trainer: it receives plans, fetches their rows and brings all of it to the device.

It runs up to P iterations ahead (paper section 3.2).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Queue

from bagpipe_hpc import trace
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.polling import working_ns
from bagpipe_hpc.protocol.plan import SnapshotOrder, TrainerPlan
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.threaded_job import put, take
from bagpipe_hpc.trainer.device.base import Device, Stream
from bagpipe_hpc.trainer.iteration_timer import IterationTimer
from bagpipe_hpc.trainer.placed_iteration import IterationPlacer, PlacedIteration
from bagpipe_hpc.trainer.step import Stopwatch
from bagpipe_hpc.transport.base import TrainerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.waiting import waiting_for


@dataclass(frozen=True)
class Prefetched:
    """An iteration on its way from the prefetch thread to the thread that starts it.

    Args:
        placed: The iteration.
        planned_at: When its plan arrived, by time.perf_counter_ns.
    """

    placed: PlacedIteration
    planned_at: int


class Prefetcher:
    """Receives plans, and fetches and places what they need, ahead of time. The numbers are those of trainer.py.

    Args:
        plans: From the oracle.
        end: Fetches rows from the servers.
        prefetch_depth: P.
        device: The device of the trainer.
        placer: Brings iterations to the device.
        initializer: Makes the rows that begin anew.
        naming: Returns the context in which the thread allocates memory of the device.
    """

    def __init__(
        self,
        plans: PlanReceiver,
        end: TrainerEnd,
        prefetch_depth: int,
        device: Device,
        placer: IterationPlacer,
        initializer: RowInitializer,
        naming: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.work = IterationTimer(working_ns)
        self._plans = plans
        self._end = end
        self._device, self._placer, self._naming = device, placer, naming
        self._initializer = initializer
        self._placed: Queue[Prefetched | SnapshotOrder | None] = Queue(maxsize=max(1, prefetch_depth))
        start_thread("prefetch", self._run)

    def _run(self) -> None:
        with self._device.on(Stream.UPLOAD), self._naming():
            while (plan := self._plans.next()) is not None:  # 1
                if isinstance(plan, SnapshotOrder):
                    put(self._placed, plan)  # 9
                    continue
                assert isinstance(plan, TrainerPlan)
                self._prefetch(plan)
        put(self._placed, None)  # 10

    def _prefetch(self, plan: TrainerPlan) -> None:
        planned_at = time.perf_counter_ns()
        packed = self._placer.pack(plan)
        num_fetched = len(plan.fetch_slots)
        self._end.fetch(plan, packed.rows[:num_fetched])  # 2
        if len(plan.born_slots):
            self._initializer.fill_in_tables(plan.born_tables, plan.born_ids, packed.rows[num_fetched:])
        placed = self._placer.place(packed)
        self.work.end_iteration(counts=not plan.read_only)
        with trace.span("queue wait", plan.stream_position):
            put(self._placed, Prefetched(placed, planned_at))  # 3

    def next(self, watch: Stopwatch) -> PlacedIteration | SnapshotOrder | None:
        """Return the next iteration, or an order of a snapshot between two iterations; None after the last.

        Args:
            watch: Gets the time of waiting, by its cause.
        """
        start = time.perf_counter_ns()
        with waiting_for("its prefetch thread"):
            item = take(self._placed)
        stop = time.perf_counter_ns()
        if item is None or isinstance(item, SnapshotOrder):
            return item
        planned_at = min(max(start, item.planned_at), stop)
        position = item.placed.plan.stream_position
        watch.add("plan_wait", start, planned_at, position)
        watch.add("prefetch_wait", planned_at, stop, position)
        return item.placed
