"""A trainer, from start to end: three threads, so that only what must be waited for is waited for.

oracle         prefetch thread            exchange thread              main thread              servers, peers
  |-- plan n -> 1 receive plan n            |                            |                          |
  |             2 wait for ready n, Get  <--|----------------------------|------------------------- stages
  |             3 queue (at most P) ------> 4 finish i-1  <--------------|------------------------> delayed gradients
  |                                           Put write-backs, written i-1 ------------------------> stages
  |                                         5 start i+1  <---------------|------------------------> early pushes
  |                                         |                            6 compute i  <-----------> critical pushes,
  |                                         |                            |                          gradients, Horovod
  | <-------------------------------------- |  ------------------------- 7 report: loss
  |                                         |------ i+1 is ready ------> 8 next iteration
  |-- snapshot -------------------------------> 9 after the finish of the last: copy the cache, write it in a thread
  |-- end ----> 10 None ------------------> finish of the last --------> 11 evaluation, counters, dense parameters

4 and 5 run while 6 does, and the critical path is 6 alone (training/step.py says why that is safe). Where nothing may
be delayed, the main thread does 5, 6, 4, one after the other; so it does around a snapshot.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any

import horovod.torch as hvd
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.config import Config
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.lookahead.plan import Snapshot, TrainerPlan
from bagpipe_hpc.roles.communicators import Communicators, trainers_of_node
from bagpipe_hpc.roles.report import REPORT
from bagpipe_hpc.roles.saving import FileWriter
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.roles.trainer_state import TrainerState
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.store.layout import row_width
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.training.buffers import BufferPool, HostBuffer, HostMemory
from bagpipe_hpc.training.build import build_step
from bagpipe_hpc.training.dense import dense_parameters
from bagpipe_hpc.training.device import Device, choose_device, free_bytes, set_num_threads
from bagpipe_hpc.training.metrics import EvaluationResult, evaluate_predictions, save_predictions
from bagpipe_hpc.training.step import OpenIteration, Stopwatch
from bagpipe_hpc.transport.base import TrainerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.transport.direct import DirectTrainer
from bagpipe_hpc.transport.peers import PeerExchange
from bagpipe_hpc.transport.polite import working_ns
from bagpipe_hpc.transport.staged import StagedTrainer
from bagpipe_hpc.transport.window import RowWindow

Float32Array = NDArray[np.float32]


def run_trainer(spec: JobSpec, topology: Topology, comms: Communicators) -> None:
    """Train until the plans end. Communication: see the timeline."""
    keep_freed_memory()
    # Horovod reads these in init: one tensor at a time, no waiting for more to fuse.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.2")
    hvd.init(comm=comms.trainers)  # once a process: Horovod does not survive a shutdown followed by another init
    node = trainers_of_node(comms)
    device = choose_device(node.rank)
    num_threads = spec.config.training.threads or share_of_cores(node)
    set_num_threads(num_threads)
    end = _open_transport(spec.config, topology, comms)
    comms.world.gather(_cache_limit(spec, device, node.size))
    trainer = _Trainer(spec, comms, device, num_slots=comms.world.bcast(None))
    prefetcher = _Prefetcher(comms, end, spec.config, device)
    trainer.run(prefetcher, end)
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
        self.work: list[int] = []  # by working_ns, after each iteration
        self._plans = PlanReceiver(comms.plans)
        self._end = end
        self._row_width = row_width(config)
        self._landed: Queue[_Landed | Snapshot | None] = Queue(maxsize=max(1, config.prefetch_depth))
        # A daemon: where the main thread fails, the job is aborted and nothing waits for this one.
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def _run(self) -> None:
        while (plan := self._plans.next()) is not None:  # 1
            if isinstance(plan, Snapshot):
                self._landed.put(plan)  # 9
                continue
            assert isinstance(plan, TrainerPlan)
            planned_at = time.perf_counter_ns()
            buffer = self.buffers.take()
            rows = buffer.rows(len(plan.fetch_slots), self._row_width)
            self._end.fetch(plan, rows)  # 2
            self.work.append(working_ns())
            with trace.span("queue wait", plan.iteration):
                self._landed.put(_Landed(plan, rows, buffer, planned_at))  # 3
        self._landed.put(None)  # 10

    def next(self, watch: Stopwatch) -> _Landed | Snapshot | None:
        """The next plan and its rows, or a snapshot between two; waiting is counted by its cause."""
        start = time.perf_counter_ns()
        landed = self._landed.get()
        stop = time.perf_counter_ns()
        if landed is None or isinstance(landed, Snapshot):
            return landed
        planned_at = min(max(start, landed.planned_at), stop)
        watch.add("plan_wait", start, planned_at, landed.plan.iteration)
        watch.add("prefetch_wait", planned_at, stop, landed.plan.iteration)
        return landed


class _Trainer:
    """Plays the plans and counts what happens."""

    def __init__(self, spec: JobSpec, comms: Communicators, device: Device, num_slots: int) -> None:
        self._comms = comms
        self._device = device
        self._row_bytes = 4 * row_width(spec.config)
        self._watch, self._delayed_watch = Stopwatch(), Stopwatch()
        self._peers = PeerExchange(comms.trainers)
        self._delayed_peers = PeerExchange(comms.trainers)
        self._step = build_step(
            spec.config,
            num_dense=spec.num_dense,
            num_tables=len(spec.num_embeddings),
            num_slots=num_slots,
            trainer_rank=comms.trainers.rank,
            device=device,
            peers=self._peers,
            delayed_peers=self._delayed_peers if spec.config.is_overlapped else None,
            stopwatch=self._watch,
            delayed_stopwatch=self._delayed_watch if spec.config.is_overlapped else self._watch,
        )
        self._state = TrainerState(spec, self._step, comms.trainers.rank)
        self._state.restore()
        self._writer = FileWriter(comms.events)
        self._counters = dict.fromkeys(
            ("iterations", "samples", "rows_fetched", "rows_written_back", "rows_pushed", "bytes_exchanged"), 0
        )
        self._clock = [time.perf_counter()]  # when training iterations ended
        self._work: dict[str, list[int]] = {"main": [], "exchange": [], "prefetch": []}  # by thread, as prefetcher.work
        self._seconds_by_cause: dict[str, float] = {}
        self._predictions_path = spec.predictions
        self._predictions: list[tuple[Float32Array, Float32Array]] = []

    def run(self, prefetcher: _Prefetcher, end: TrainerEnd) -> None:
        """Play every plan; all files are written then."""
        self._work["prefetch"] = prefetcher.work
        self._clock = [time.perf_counter()]
        if self._step.is_overlapped:
            self._run_overlapped(prefetcher, end)
        else:
            while (item := self._start_next(prefetcher, self._watch)) is not None:  # 5
                if isinstance(item, Snapshot):
                    self._save(item, None, end)  # 9
                else:
                    self._compute(item)  # 6
                    self._finish(item, end)  # 4
        self._writer.finish()

    def _run_overlapped(self, prefetcher: _Prefetcher, end: TrainerEnd) -> None:
        def meanwhile(previous: OpenIteration | None) -> OpenIteration | Snapshot | None:
            if previous is not None:
                self._finish(previous, end)  # 4
            following = self._start_next(prefetcher, self._delayed_watch)  # 5
            self._work["exchange"].append(working_ns())
            return following

        with ThreadPoolExecutor(1, "exchange") as exchange:
            previous, current = None, self._start_next(prefetcher, self._watch)
            while current is not None:
                if isinstance(current, Snapshot):
                    self._save(current, previous, end)  # 9
                    previous, current = None, self._start_next(prefetcher, self._watch)
                    continue
                following = exchange.submit(meanwhile, previous)
                self._compute(current)  # 6
                with self._watch.time("delayed_wait", current.plan.iteration):
                    previous, current = current, following.result()  # 8
            if previous is not None:
                self._finish(previous, end)

    def _start_next(self, prefetcher: _Prefetcher, watch: Stopwatch) -> OpenIteration | Snapshot | None:
        landed = prefetcher.next(watch)
        if landed is None or isinstance(landed, Snapshot):
            return landed
        with trace.span("start", landed.plan.iteration):
            iteration = self._step.start(landed.plan, landed.rows)
        prefetcher.buffers.give_back(landed.buffer)
        return iteration

    def _save(self, snapshot: Snapshot, previous: OpenIteration | None, end: TrainerEnd) -> None:
        """Copy the state after an iteration; what is left of that iteration comes first, and counts as stall."""
        start = time.perf_counter_ns()
        if previous is not None:
            self._finish(previous, end)
        kept = self._state.keep(snapshot)
        stop = time.perf_counter_ns()
        self._watch.add("checkpoint", start, stop, snapshot.iteration)
        self._writer.write(lambda: kept((stop - start) / 1e9))

    def _compute(self, iteration: OpenIteration) -> None:
        plan = iteration.plan
        with trace.span("evaluation" if plan.read_only else "iteration", plan.iteration):
            loss, logits = self._step.compute(iteration)
            self._account(plan, loss, logits)  # 7
        self._work["main"].append(working_ns())
        if not plan.read_only:
            self._clock.append(time.perf_counter())
            self._seconds_by_cause = dict(self._watch.seconds)

    def _finish(self, iteration: OpenIteration, end: TrainerEnd) -> None:
        with trace.span("finish", iteration.plan.iteration):
            leaving = self._step.finish(iteration)
            watch = self._delayed_watch if self._step.is_overlapped else self._watch
            with watch.time("write_back"):
                end.write_back(iteration.plan, leaving)

    def _account(self, plan: TrainerPlan, loss: float, logits: Float32Array) -> None:
        self._counters["rows_written_back"] += len(plan.write_back_slots)  # the last ones leave during evaluation
        if plan.read_only:
            self._predictions.append((logits, plan.labels))
        else:
            self._counters["iterations"] += 1
            self._counters["samples"] += plan.num_samples
            self._counters["rows_fetched"] += len(plan.fetch_slots)
            self._counters["rows_pushed"] += len(plan.push_index)
            self._counters["bytes_exchanged"] += self._step.exchanged_bytes(plan)
        if self._comms.trainers.rank == 0:
            self._comms.reports.Send(
                REPORT.pack(plan.iteration, loss, plan.num_global_samples, plan.read_only), ORACLE_RANK
            )

    def report_totals(self, num_threads: int) -> None:
        """Send the oracle what this trainer counted while training (11). Communication: collective over the world."""
        is_first = self._comms.trainers.rank == 0
        totals: dict[str, Any] = {
            "seconds": self._clock[-1] - self._clock[0],
            "iteration_seconds": np.diff(self._clock),
            "working_seconds": {thread: np.diff(work) / 1e9 for thread, work in self._work.items()},
            "delayed_seconds_by_cause": dict(self._delayed_watch.seconds),
            "seconds_by_cause": self._seconds_by_cause,
            **self._counters,
            "bytes_fetched": self._counters["rows_fetched"] * self._row_bytes,
            "bytes_written_back": self._counters["rows_written_back"] * self._row_bytes,
            "bytes_dense": self._counters["iterations"] * self._step.dense.num_bytes,
            "device": str(self._device),
            "threads": num_threads,
            "evaluation": self._evaluate(),
            "dense_parameters": dense_parameters(self._step.model) if is_first else None,
        }
        self._comms.world.gather(totals)

    def close(self) -> None:
        """Release communicators. Communication: collective over the trainers."""
        self._peers.free()
        self._delayed_peers.free()

    def _evaluate(self) -> EvaluationResult | None:
        """Metrics over the predictions of all trainers, at trainer 0."""
        shares = self._comms.trainers.gather(self._predictions)
        if not shares or not shares[0]:
            return None
        pieces = [piece for batch in zip(*shares, strict=True) for piece in batch]  # in the order of the samples
        logits, labels = (np.concatenate(column) for column in zip(*pieces, strict=True))
        if self._predictions_path is not None:
            save_predictions(self._predictions_path, logits)
        return evaluate_predictions(logits, labels)


def share_of_cores(node: MPI.Intracomm) -> int:
    """OMP_NUM_THREADS, else the cores this rank may use, divided by the trainers that may use the same ones.

    Communication: collective.
    """
    mine = os.sched_getaffinity(0)
    num_sharing = sum(1 for cores in node.allgather(mine) if cores & mine)
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # the first of nested levels
    return int(told) if told.isdigit() and int(told) else max(1, len(mine) // num_sharing)
