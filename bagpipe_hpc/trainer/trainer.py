"""A trainer, from start to end: three threads, so that only what must be waited for is waited for.

oracle         prefetch thread            exchange thread              main thread              servers, peers
  |-- plan n -> 1 receive plan n            |                            |                          |
  |             2 wait for ready n, Get  <--|----------------------------|------------------------- stages
  |             3 queue (at most P) ------> 4 finish i-1  <--------------|------------------------> delayed gradients
  |                                           Put write-backs, written i-1 ------------------------> stages
  |                                         5 start i+1  <---------------|------------------------> early pushes
  |                                         |                            6 compute i  <-----------> critical pushes,
  |                                         |                            |                          gradients, Horovod
  | <-------------------------------------- |  ------------------------- 7 report: loss; predictions, if read-only
  |                                         |------ i+1 is ready ------> 8 next iteration
  |-- snapshot -------------------------------> 9 after the finish of the last: copy the cache, write it in a thread
  |-- end ----> 10 None ------------------> finish of the last --------> 11 counters, dense parameters

4 and 5 run while 6 does, and the critical path is 6 alone (trainer/step.py says why that is safe). Where nothing may
be delayed, the main thread does 5, 6, 4, one after the other; so it does around a snapshot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.config import Config
from bagpipe_hpc.garbage_collection import resume_collector
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.oracle.evaluator import PredictionSender
from bagpipe_hpc.protocol.plan import SnapshotOrder, TrainerPlan
from bagpipe_hpc.protocol.report import LOSS_TAG, REPORT
from bagpipe_hpc.rank_thread import single_thread_pool, start_thread
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.file_writer import FileWriter
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.threaded_job import put, take
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.trainer.buffers import BufferPool, HostBuffer, HostMemory
from bagpipe_hpc.trainer.build import build_step
from bagpipe_hpc.trainer.choose_sum import choose_sum
from bagpipe_hpc.trainer.dense_gradients import dense_parameters
from bagpipe_hpc.trainer.dense_sum import DenseSum
from bagpipe_hpc.trainer.device import Device, choose_device, free_bytes, set_num_threads
from bagpipe_hpc.trainer.equal_models import require_equal_parameters
from bagpipe_hpc.trainer.iteration_timer import Laps
from bagpipe_hpc.trainer.own_model import ModelFactory
from bagpipe_hpc.trainer.step import OpenIteration, Stopwatch
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch
from bagpipe_hpc.trainer.trainer_state import TrainerState
from bagpipe_hpc.transport.base import TrainerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.transport.communicators import Communicators, trainers_of_node
from bagpipe_hpc.transport.direct import DirectTrainer
from bagpipe_hpc.transport.memory import MemoryTrainer
from bagpipe_hpc.transport.peers import PeerExchange
from bagpipe_hpc.transport.polling import working_ns
from bagpipe_hpc.transport.staged import StagedTrainer
from bagpipe_hpc.transport.window import RowWindow
from bagpipe_hpc.waiting import note_step, waiting_for

Float32Array = NDArray[np.float32]


def run_trainer(
    spec: JobSpec, topology: Topology, comms: Communicators, factory: ModelFactory | None
) -> Iterator[TrainerBatch]:
    """Train until the plans end: the caller makes the step on each batch, and whatever else there is happens around it.

    Args:
        factory: Makes a model of the user's own; None: as configured.
    Communication: see the timeline.
    """
    keep_freed_memory()
    dense_sum = choose_sum(comms.trainers, is_local=comms.link is not None)
    node = trainers_of_node(comms)
    device = choose_device(node.rank)
    num_threads = spec.config.training.threads or share_of_cores(node)
    set_num_threads(num_threads)
    end = _open_transport(spec.config, topology, comms)
    comms.world.gather(_cache_limit(spec, device, node.size))
    with waiting_for("all ranks: to start"):
        cache_rows = comms.world.bcast(None)
    trainer = _Trainer(spec, comms, device, dense_sum, cache_rows, factory)
    prefetcher = _Prefetcher(comms, end, spec.config, device)
    resume_collector()
    yield from trainer.run(prefetcher, end)
    if comms.world.bcast(None):  # training is done
        trainer.report_totals(num_threads)
    end.close()
    trainer.close()
    node.Free()


def _cache_limit(spec: JobSpec, device: Device, trainers_on_node: int) -> int:
    """Slots this trainer can offer: the setting, else what a quarter of the free memory holds.

    More than two per key are of no use: one that it has, one that it had in the iteration before.
    """
    rows = spec.config.cache.rows or free_bytes(device, trainers_on_node) // 4 // (4 * row_width(spec.config))
    return max(1, min(rows, 2 * KeySpace(spec.num_embeddings).num_keys))


def _open_transport(config: Config, topology: Topology, comms: Communicators) -> TrainerEnd:
    width = row_width(config)
    if comms.link is not None:
        return MemoryTrainer(comms.link, comms.trainers.rank)
    if config.transport == "direct":
        return DirectTrainer(comms.rows, topology.num_servers, RowWindow(comms.rows, 0, width))
    return StagedTrainer(comms.rows, topology.num_servers, config.prefetch_depth + 1, width)


@dataclass(frozen=True)
class _Landed:
    plan: TrainerPlan
    rows: Float32Array  # in the buffer, which whoever inserts them gives back
    buffer: HostBuffer
    planned_at: int  # when the plan arrived, by time.perf_counter_ns


class _Prefetcher:
    """Receives plans and takes their rows ahead of time (1 to 3)."""

    def __init__(self, comms: Communicators, end: TrainerEnd, config: Config, device: Device) -> None:
        self.buffers = BufferPool(HostMemory(device))  # P + 2: one filled, P queued, one inserted
        self.work = Laps(working_ns)
        self._plans = PlanReceiver(comms.plans)
        self._end = end
        self._row_width = row_width(config)
        self._landed: Queue[_Landed | SnapshotOrder | None] = Queue(maxsize=max(1, config.prefetch_depth))
        start_thread("prefetch", self._run)

    def _run(self) -> None:
        while (plan := self._plans.next()) is not None:  # 1
            if isinstance(plan, SnapshotOrder):
                put(self._landed, plan)  # 9
                continue
            assert isinstance(plan, TrainerPlan)
            planned_at = time.perf_counter_ns()
            buffer = self.buffers.take()
            rows = buffer.rows(len(plan.fetch_slots), self._row_width)
            self._end.fetch(plan, rows)  # 2
            self.work.end(counts=not plan.read_only)
            with trace.span("queue wait", plan.stream_position):
                put(self._landed, _Landed(plan, rows, buffer, planned_at))  # 3
        put(self._landed, None)  # 10

    def next(self, watch: Stopwatch) -> _Landed | SnapshotOrder | None:
        """The next plan and its rows, or a snapshot between two; waiting is counted by its cause."""
        start = time.perf_counter_ns()
        with waiting_for("its prefetch thread"):
            landed = take(self._landed)
        stop = time.perf_counter_ns()
        if landed is None or isinstance(landed, SnapshotOrder):
            return landed
        planned_at = min(max(start, landed.planned_at), stop)
        watch.add("plan_wait", start, planned_at, landed.plan.stream_position)
        watch.add("prefetch_wait", planned_at, stop, landed.plan.stream_position)
        return landed


class _Trainer:
    """Plays the plans and counts what happens."""

    def __init__(
        self,
        spec: JobSpec,
        comms: Communicators,
        device: Device,
        dense_sum: DenseSum,
        num_slots: int,
        factory: ModelFactory | None,
    ) -> None:
        self._comms = comms
        self._device, self._dense_sum = device, dense_sum
        self._row_bytes = 4 * row_width(spec.config)
        self._watch, self._delayed_watch = Stopwatch(), Stopwatch()
        self._peers = PeerExchange(comms.trainers)
        self._delayed_peers = PeerExchange(comms.trainers)
        self._step = build_step(
            spec.config,
            schema=spec.schema,
            factory=factory,
            num_slots=num_slots,
            trainer_rank=comms.trainers.rank,
            device=device,
            dense_sum=dense_sum,
            peers=self._peers,
            delayed_peers=self._delayed_peers if spec.config.is_overlapped else None,
            stopwatch=self._watch,
            delayed_stopwatch=self._delayed_watch if spec.config.is_overlapped else self._watch,
        )
        if spec.config.model.factory is not None:
            require_equal_parameters(comms.trainers, self._step.model, spec.config.model.factory)
        self._state = TrainerState(spec, self._step, comms.trainers.rank)
        self._state.restore()
        self._writer = FileWriter(comms.events)
        self._counters = dict.fromkeys(
            ("iterations", "samples", "rows_fetched", "rows_written_back", "rows_pushed", "bytes_exchanged"), 0
        )
        self._predictions = PredictionSender(comms.reports)
        self._clock = Laps(time.perf_counter_ns)
        self._work = {thread: Laps(working_ns) for thread in ("main", "exchange", "prefetch")}

    def run(self, prefetcher: _Prefetcher, end: TrainerEnd) -> Iterator[TrainerBatch]:
        """Play every plan, yielding what is to be trained on; all files are written then."""
        self._work["prefetch"] = prefetcher.work
        self._clock.end(counts=False)
        if self._step.is_overlapped:
            yield from self._run_overlapped(prefetcher, end)
        else:
            while (item := self._start_next(prefetcher, self._watch)) is not None:  # 5
                if isinstance(item, SnapshotOrder):
                    self._save(item, None, end)  # 9
                else:
                    yield from self._compute(item)  # 6
                    self._finish(item, end)  # 4
        self._writer.finish()
        self._predictions.finish()

    def _run_overlapped(self, prefetcher: _Prefetcher, end: TrainerEnd) -> Iterator[TrainerBatch]:
        def meanwhile(previous: OpenIteration | None) -> OpenIteration | SnapshotOrder | None:
            if previous is not None:
                self._finish(previous, end)  # 4
            following = self._start_next(prefetcher, self._delayed_watch)  # 5
            self._work["exchange"].end(counts=previous is not None and not previous.plan.read_only)
            return following

        with single_thread_pool("exchange") as exchange:
            previous, current = None, self._start_next(prefetcher, self._watch)
            while current is not None:
                if isinstance(current, SnapshotOrder):
                    self._save(current, previous, end)  # 9
                    previous, current = None, self._start_next(prefetcher, self._watch)
                    continue
                following = exchange.submit(meanwhile, previous)
                yield from self._compute(current)  # 6
                with self._watch.time("delayed_wait", current.plan.stream_position), waiting_for("its exchange thread"):
                    previous, current = current, following.result()  # 8
            if previous is not None:
                self._finish(previous, end)

    def _start_next(self, prefetcher: _Prefetcher, watch: Stopwatch) -> OpenIteration | SnapshotOrder | None:
        landed = prefetcher.next(watch)
        if landed is None or isinstance(landed, SnapshotOrder):
            return landed
        with trace.span("start", landed.plan.stream_position):
            iteration = self._step.start(landed.plan, landed.rows)
        prefetcher.buffers.give_back(landed.buffer)
        return iteration

    def _save(self, snapshot: SnapshotOrder, previous: OpenIteration | None, end: TrainerEnd) -> None:
        """Copy the state after an iteration; what is left of that iteration comes first, and counts as stall."""
        start = time.perf_counter_ns()
        if previous is not None:
            self._finish(previous, end)
        kept = self._state.keep(snapshot)
        stop = time.perf_counter_ns()
        self._watch.add("checkpoint", start, stop, snapshot.num_trained)
        self._writer.write(lambda: kept((stop - start) / 1e9))

    def _compute(self, iteration: OpenIteration) -> Iterator[TrainerBatch]:
        plan = iteration.plan
        with trace.span("evaluation" if plan.read_only else "iteration", plan.stream_position):
            batch = self._step.gather(iteration)
            loss = float("nan")
            if plan.read_only:
                self._predictions.send(self._step.predict(batch))
            else:
                with self._watch.time("compute"):
                    if len(batch):
                        yield batch
                    else:
                        batch.skip()
                loss = self._step.apply(iteration, batch)
            self._account(plan, loss)  # 7
        note_step()
        for laps in (self._work["main"], self._clock, self._watch):
            laps.end(counts=not plan.read_only)

    def _finish(self, iteration: OpenIteration, end: TrainerEnd) -> None:
        with trace.span("finish", iteration.plan.stream_position):
            leaving = self._step.finish(iteration)
            watch = self._delayed_watch if self._step.is_overlapped else self._watch
            with watch.time("write_back"):
                end.write_back(iteration.plan, leaving)
        if self._step.is_overlapped:
            self._delayed_watch.end(counts=not iteration.plan.read_only)

    def _account(self, plan: TrainerPlan, loss: float) -> None:
        self._counters["rows_written_back"] += len(plan.write_back_slots)  # the last ones leave during evaluation
        if plan.read_only:
            return
        self._counters["iterations"] += 1
        self._counters["samples"] += plan.num_samples
        self._counters["rows_fetched"] += len(plan.fetch_slots)
        self._counters["rows_pushed"] += len(plan.push_index)
        self._counters["bytes_exchanged"] += self._step.exchanged_bytes(plan)
        if self._comms.trainers.rank == 0:
            self._comms.reports.Send(
                REPORT.pack(plan.num_trained, loss, plan.num_global_samples), ORACLE_RANK, LOSS_TAG
            )

    def report_totals(self, num_threads: int) -> None:
        """Send the oracle what this trainer counted while training (11). Communication: collective over the world."""
        is_first = self._comms.trainers.rank == 0
        totals: dict[str, Any] = {
            "seconds": self._clock.seconds,
            "evaluation_seconds": self._clock.other_seconds,
            "iteration_seconds": self._clock.lap_seconds(),
            "working_seconds": {thread: work.lap_seconds() for thread, work in self._work.items()},
            "delayed_seconds_by_cause": dict(self._delayed_watch.counted),
            "seconds_by_cause": dict(self._watch.counted),
            **self._counters,
            "bytes_fetched": self._counters["rows_fetched"] * self._row_bytes,
            "bytes_written_back": self._counters["rows_written_back"] * self._row_bytes,
            "bytes_dense": self._counters["iterations"] * self._step.dense.num_bytes,
            "device": str(self._device),
            "threads": num_threads,
            "dense_parameters": dense_parameters(self._step.model) if is_first else None,
        }
        self._comms.world.gather(totals)

    def close(self) -> None:
        """Release communicators. Communication: collective over the trainers."""
        self._peers.free()
        self._delayed_peers.free()
        self._dense_sum.free()


def share_of_cores(node: MPI.Intracomm) -> int:
    """OMP_NUM_THREADS, else the cores this rank may use, divided by the trainers that may use the same ones.

    Communication: collective.
    """
    mine = os.sched_getaffinity(0)
    num_sharing = sum(1 for cores in node.allgather(mine) if cores & mine)
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # the first of nested levels
    return int(told) if told.isdigit() and int(told) else max(1, len(mine) // num_sharing)
