"""A trainer, from start to end. Its three threads overlap what an iteration does not have to wait for.

oracle         prefetch thread            exchange thread              main thread              servers, peers
  |-- plan n -> 1 receive plan n            |                            |                          |
  |             2 wait for ready n, Get  <--|----------------------------|------------------------- stages
  |             3 queue (at most P) ------> 4 finish i-1  <--------------|------------------------> delayed gradients
  |                                           Put write-backs, written i-1 ------------------------> stages
  |                                         5 start i+1  <---------------|------------------------> early pushes
  |                                         |                            6 compute i  <-----------> critical pushes,
  |                                         |                            |                          dense gradients
  | <-------------------------------------- |  ------------------------- 7 Loss (on a GPU of i - 1); Predictions,
  |                                         |                            |   if read-only
  |                                         |------ i+1 is ready ------> 8 next iteration
  |-- order of a snapshot ---------------------------------------------> 9 finish the last iteration, copy the state;
  |                                         |                              a thread writes the files
  |-- end ----> 10 None -----------------------------------------------> 11 finish the last; totals, dense parameters

4 and 5 run while 6 runs, so the critical path is 6 alone (trainer/step.py says why that is safe). If nothing may be
delayed, the main thread does 5, 6 and 4, one after the other. Around a snapshot it does the same.

On a GPU each thread gives its work to a stream of its own. `trainer/device/base.py` says which streams wait for which.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.config import Config
from bagpipe_hpc.garbage_collection import resume_collector
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.memory_use import resident_bytes
from bagpipe_hpc.polling import working_ns
from bagpipe_hpc.protocol.figure_schedule import is_due
from bagpipe_hpc.protocol.handshakes import agree_on_cache_rows, agree_on_end, send_dense_parameters, send_totals
from bagpipe_hpc.protocol.inbox import Outbox
from bagpipe_hpc.protocol.messages import Predictions, RankFigures
from bagpipe_hpc.protocol.plan import SnapshotOrder, TrainerPlan
from bagpipe_hpc.protocol.totals import TrainerTotals
from bagpipe_hpc.rank_thread import single_thread_pool
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.energy import EnergyMeter
from bagpipe_hpc.runtime.file_writer import FileWriter
from bagpipe_hpc.runtime.row_initializer import row_initializer
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.runtime.starting_point import StartingPoint
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.trainer.build import build_step, build_trained_model
from bagpipe_hpc.trainer.dense_gradients import dense_parameters
from bagpipe_hpc.trainer.dense_sum import DenseSum
from bagpipe_hpc.trainer.device.base import Device, Forward, Stream
from bagpipe_hpc.trainer.device.choose import choose_device, set_num_threads
from bagpipe_hpc.trainer.device.gpu_energy import energy_counter
from bagpipe_hpc.trainer.device_memory import in_words, most_rows, naming_memory, need_of
from bagpipe_hpc.trainer.execution import prepare_forward, sizes_of_passes
from bagpipe_hpc.trainer.exposure_check import require_exposure
from bagpipe_hpc.trainer.iteration_timer import IterationTimer
from bagpipe_hpc.trainer.late_losses import LateLosses
from bagpipe_hpc.trainer.make_sum import make_sum
from bagpipe_hpc.trainer.own_model import ModelFactory, digest_of_parameters, require_equal_parameters
from bagpipe_hpc.trainer.prefetcher import Prefetcher
from bagpipe_hpc.trainer.step import OpenIteration, Stopwatch
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, skip_step
from bagpipe_hpc.trainer.trainer_state import TrainerState
from bagpipe_hpc.transport.base import TrainerEnd
from bagpipe_hpc.transport.byte_messages import Comm
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.transport.collectives import all_gather_bytes, all_gather_json
from bagpipe_hpc.transport.communicators import Communicators, ranks_of_host
from bagpipe_hpc.transport.direct import DirectTrainer
from bagpipe_hpc.transport.memory import MemoryTrainer
from bagpipe_hpc.transport.peers import PeerExchange
from bagpipe_hpc.transport.staged import StagedTrainer
from bagpipe_hpc.transport.window import RowWindow
from bagpipe_hpc.waiting import note_step, waiting_for


def run_trainer(
    spec: JobSpec, start: StartingPoint, topology: Topology, comms: Communicators, factory: ModelFactory | None
) -> Iterator[TrainerBatch]:
    """Train until the plans end. The caller makes the step on each batch that this generator yields.

    Args:
        spec: The job.
        start: Where the job begins.
        topology: The roles of the ranks.
        comms: The communicators of this rank.
        factory: Makes the user's own model. None: the settings name the model.
    Raises:
        OwnModelError: the user's own model cannot be built or trained, or the caller makes no step on a batch.
        CheckpointError: the checkpoint that the job goes on from is damaged or contradicts the job.
        ExecutionError: the model cannot be compiled or recorded.
    Communication: see the timeline.
    """
    keep_freed_memory()
    host = ranks_of_host(comms.trainers)
    device = choose_device(spec.config.training.device, host.rank, spec.exchange)
    meter = EnergyMeter(energy_counter(device))
    dense_sum = make_sum(spec.dense_backend, comms.trainers, device)
    num_threads = spec.config.training.threads or share_of_cores(host)
    set_num_threads(num_threads)
    end = _open_transport(spec.config, topology, comms)
    model = build_trained_model(spec.config, spec.schema, factory, comms.trainers.rank, device)
    forward = _forward(spec, device, model, comms.trainers.rank, topology.num_trainers)  # what it keeps is not free
    cache_rows = agree_on_cache_rows(comms.world, _cache_limit(spec, device, model, topology.num_trainers, host.size))
    naming = partial(naming_memory, partial(_memory_in_words, spec, device, cache_rows))
    with naming(), device.on(Stream.COMPUTE):
        trainer = _Trainer(spec, start, comms, device, dense_sum, model, forward, cache_rows)
        prefetcher = trainer.prefetcher(PlanReceiver(comms.plans), end, naming)
        resume_collector()
        yield from trainer.run(prefetcher, end)
    if agree_on_end(comms.world, None):
        trainer.report_totals(num_threads, meter.reading())  # 11
    end.close()
    meter.close()
    trainer.close()
    host.Free()


def _forward(spec: JobSpec, device: Device, model: torch.nn.Module, rank: int, num_trainers: int) -> Forward:
    """Return what runs the model in training. The first trainer shows what goes on: all of them do the same."""

    def described() -> str:
        return f"the model takes part of {device.name}, where {in_words(device.free_bytes(1))} are free"

    sizes = sizes_of_passes(spec.config, rank, num_trainers)
    with naming_memory(described), device.on(Stream.COMPUTE):
        return prepare_forward(spec.config, spec.schema, model, device, sizes, shows=rank == 0)


def _cache_limit(
    spec: JobSpec, device: Device, model: torch.nn.Module, num_trainers: int, trainers_on_host: int
) -> int:
    """Return how many slots this trainer can offer: the setting cache.rows, else what its memory holds.

    More than two slots per key are of no use: a key has one slot, and the slot that it had in the iteration before may
    not be free yet.
    """
    need = partial(need_of, spec.config, spec.schema, model, num_trainers)
    return min(most_rows(spec.config, need, device, trainers_on_host), 2 * KeySpace(spec.num_embeddings).num_keys)


def _memory_in_words(spec: JobSpec, device: Device, cache_rows: int) -> str:
    cache, free = in_words(cache_rows * 4 * row_width(spec.config)), in_words(device.free_bytes(1))
    return f"a cache of {cache_rows:,} rows takes {cache} on {device.name}, where {free} are free"


def _open_transport(config: Config, topology: Topology, comms: Communicators) -> TrainerEnd:
    width = row_width(config)
    if comms.link is not None:
        return MemoryTrainer(comms.link, comms.trainers.rank)
    if config.transport == "direct":
        return DirectTrainer(comms.row_comm, topology.num_servers, RowWindow(comms.row_comm, 0, width))
    return StagedTrainer(comms.row_comm, topology.num_servers, config.prefetch_depth + 1, width)


@dataclass
class _Counters:
    """What this trainer counts in training iterations."""

    iterations: int = 0
    samples: int = 0
    rows_fetched: int = 0
    rows_written_back: int = 0
    rows_pushed: int = 0
    bytes_exchanged: int = 0


class _Trainer:
    """Plays the plans of one trainer, and counts rows and bytes."""

    def __init__(
        self,
        spec: JobSpec,
        start: StartingPoint,
        comms: Communicators,
        device: Device,
        dense_sum: DenseSum,
        model: torch.nn.Module,
        forward: Forward,
        num_slots: int,
    ) -> None:
        self._comms = comms
        self._rank = comms.trainers.rank
        self._device, self._dense_sum = device, dense_sum
        self._row_bytes = 4 * row_width(spec.config)
        self._watch, self._delayed_watch = Stopwatch(), Stopwatch()
        self._peers = PeerExchange(comms.trainers)
        self._delayed_peers = PeerExchange(comms.trainers)
        require_exposure(device, self._peers, self._rank, comms.trainers.size)
        self._step = build_step(
            spec.config,
            schema=spec.schema,
            model=model,
            forward=forward,
            num_slots=num_slots,
            trainer_rank=self._rank,
            num_trainers=comms.trainers.size,
            device=device,
            dense_sum=dense_sum,
            peers=self._peers,
            delayed_peers=self._delayed_peers if spec.config.is_overlapped else None,
            stopwatch=self._watch,
            delayed_stopwatch=self._delayed_watch if spec.config.is_overlapped else self._watch,
        )
        if spec.config.model.factory is not None:
            digests = all_gather_bytes(comms.trainers, digest_of_parameters(self._step.model))
            require_equal_parameters(digests, self._rank, spec.config.model.factory)
        self._state = TrainerState(spec, start, self._step, self._rank)
        self._state.restore()
        self._outbox = Outbox(comms.mailbox)
        self._losses = LateLosses(self._outbox.send, lag=0 if device.shares_memory else 1)
        self._prefetch_depth = spec.config.prefetch_depth
        self._initializer = row_initializer(spec.config, spec.schema)
        self._writer = FileWriter(self._outbox)
        self._counters = _Counters()
        self._rows_by_server: NDArray[np.int64] = np.zeros(spec.config.roles.servers, np.int64)  # fetched in training
        self._num_trained = spec.start.num_trained
        self._latest_position: int | None = None  # of the plan that was computed last
        self._timer = IterationTimer(time.perf_counter_ns)
        self._work = {thread: IterationTimer(working_ns) for thread in ("main", "exchange", "prefetch")}

    def prefetcher(
        self, plans: PlanReceiver, end: TrainerEnd, naming: Callable[[], AbstractContextManager[None]]
    ) -> Prefetcher:
        """Start the prefetch thread.

        Args:
            plans: From the oracle.
            end: Fetches rows from the servers.
            naming: Returns the context in which the thread allocates memory of the device.
        """
        placer = self._step.placer
        return Prefetcher(plans, end, self._prefetch_depth, self._device, placer, self._initializer, naming)

    def run(self, prefetcher: Prefetcher, end: TrainerEnd) -> Iterator[TrainerBatch]:
        """Play every plan and yield each batch to train on. On return, all files of checkpoints are written."""
        self._work["prefetch"] = prefetcher.work
        self._timer.end_iteration(counts=False)
        if self._step.is_overlapped:
            yield from self._run_overlapped(prefetcher, end)
        else:
            while (item := self._start_next(prefetcher, self._watch)) is not None:  # 5
                if isinstance(item, SnapshotOrder):
                    self._save(item, None, end)  # 9
                else:
                    yield from self._compute(item)  # 6
                    self._finish(item, end)  # 4
        self._losses.flush()
        self._writer.finish()
        self._tell_figures()
        with waiting_for("the oracle: to take the last messages"):
            self._outbox.finish()

    def _run_overlapped(self, prefetcher: Prefetcher, end: TrainerEnd) -> Iterator[TrainerBatch]:
        def meanwhile(previous: OpenIteration | None) -> OpenIteration | SnapshotOrder | None:
            with self._device.on(Stream.EXCHANGE):
                if previous is not None:
                    self._finish(previous, end)  # 4
                following = self._start_next(prefetcher, self._delayed_watch)  # 5
            self._work["exchange"].end_iteration(counts=previous is not None and not previous.plan.read_only)
            return following

        with single_thread_pool("exchange") as exchange:
            previous, current = None, self._start_next(prefetcher, self._watch)
            while current is not None:
                if isinstance(current, SnapshotOrder):
                    self._save(current, previous, end)  # 9
                    previous, current = None, self._start_next(prefetcher, self._watch)
                    continue
                following = exchange.submit(meanwhile, previous)
                yield from self._compute(current, partial(_started, following))  # 6
                position = current.plan.stream_position
                with self._watch.time("delayed_wait", position), waiting_for("its exchange thread"):
                    previous, current = current, following.result()  # 8
            if previous is not None:
                self._finish(previous, end)

    def _start_next(self, prefetcher: Prefetcher, watch: Stopwatch) -> OpenIteration | SnapshotOrder | None:
        placed = prefetcher.next(watch)
        if placed is None or isinstance(placed, SnapshotOrder):
            return placed
        with trace.span("start", placed.plan.stream_position):
            return self._step.start(placed)

    def _save(self, order: SnapshotOrder, previous: OpenIteration | None, end: TrainerEnd) -> None:
        """Copy the state after an iteration. If that iteration is `previous`, finish it first, as part of the stall."""
        start = time.perf_counter_ns()
        self._losses.flush()  # the checkpoint has the metrics up to here
        if previous is not None:
            self._finish(previous, end)
        write = self._state.keep(order)
        stop = time.perf_counter_ns()
        self._watch.add("checkpoint", start, stop, self._latest_position)
        self._writer.write(lambda: write((stop - start) / 1e9))

    def _compute(
        self, iteration: OpenIteration, following: Callable[[], OpenIteration | None] = lambda: None
    ) -> Iterator[TrainerBatch]:
        plan = iteration.plan
        self._latest_position = plan.stream_position
        with trace.span("evaluation" if plan.read_only else "iteration", plan.stream_position):
            batches = self._step.gather(iteration)
            if plan.read_only:
                logits = np.concatenate([self._step.predict(batch) for batch in batches])
                self._losses.flush()
                self._outbox.send(Predictions(self._rank, logits))  # 7
                loss = _no_loss
            else:
                for batch in batches:
                    with self._watch.time("compute"):
                        if len(batch):
                            yield batch
                        else:
                            skip_step(batch)
                loss = self._step.apply(iteration, following)
            self._account(plan, loss)
        note_step()
        for timer in (self._work["main"], self._timer):
            timer.end_iteration(counts=not plan.read_only)
        self._watch.end_iteration(counts=not plan.read_only)
        if not plan.read_only and is_due(self._counters.iterations):
            self._tell_figures()

    def _finish(self, iteration: OpenIteration, end: TrainerEnd) -> None:
        with trace.span("finish", iteration.plan.stream_position):
            leaving = self._step.finish(iteration)
            watch = self._delayed_watch if self._step.is_overlapped else self._watch
            with watch.time("write_back"):
                end.write_back(iteration.plan, leaving)
        if self._step.is_overlapped:
            self._delayed_watch.end_iteration(counts=not iteration.plan.read_only)

    def _account(self, plan: TrainerPlan, loss: Callable[[], float]) -> None:
        counters = self._counters
        # Count write-backs of evaluations too: the last rows of training may leave the cache during an evaluation.
        counters.rows_written_back += len(plan.write_back_slots)
        if plan.read_only:
            return
        counters.iterations += 1
        counters.samples += plan.num_samples
        counters.rows_fetched += len(plan.fetch_slots)
        self._rows_by_server += plan.fetch_counts
        self._num_trained = plan.num_trained_after
        counters.rows_pushed += len(plan.push_index)
        counters.bytes_exchanged += self._step.exchanged_bytes(plan)
        if self._rank == 0:
            self._losses.add(plan.num_trained_after, loss, plan.num_global_samples)  # 7

    def _counts(self) -> dict[str, Any]:
        """Return the counts and times of training so far: the fields of TrainerTotals that are one number or a dict."""
        counters = self._counters
        return {
            "seconds": self._timer.seconds,
            "evaluation_seconds": self._timer.other_seconds,
            "seconds_by_cause": dict(self._watch.counted),
            "delayed_seconds_by_cause": dict(self._delayed_watch.counted),
            **vars(counters),
            "bytes_fetched": counters.rows_fetched * self._row_bytes,
            "bytes_written_back": counters.rows_written_back * self._row_bytes,
            "bytes_dense": counters.iterations * self._step.dense_gradients.num_bytes,
        }

    def _tell_figures(self) -> None:
        """Tell the oracle the figures so far. Communication: sends to the oracle, without waiting for it."""
        figures = {
            "trainer": self._rank,
            "iteration": self._num_trained,
            **self._counts(),
            "rows_by_server": self._rows_by_server.tolist(),
            "memory_bytes": resident_bytes(),
            "device_bytes": self._device.allocated_bytes(),
            "host": socket.gethostname(),
        }
        self._outbox.send(RankFigures(self._comms.world.rank, figures))

    def report_totals(self, num_threads: int, energy: Mapping[str, Any]) -> None:
        """Send the oracle what this trainer counted in training (11). Communication: collective over the world."""
        totals = TrainerTotals(
            iteration_seconds=self._timer.iteration_seconds(),
            working_seconds={thread: timer.iteration_seconds() for thread, timer in self._work.items()},
            **self._counts(),
            device=self._device.name,
            threads=num_threads,
            energy=energy,
        )
        send_totals(self._comms.world, totals)
        if self._rank == 0:
            send_dense_parameters(self._comms.world, dense_parameters(self._step.model))

    def close(self) -> None:
        """Release communicators. Communication: collective over the trainers."""
        self._peers.free()
        self._delayed_peers.free()
        self._dense_sum.free()


def _no_loss() -> float:
    """Return the loss of an iteration that does not train."""
    return float("nan")


def _started(following: Future[OpenIteration | SnapshotOrder | None]) -> OpenIteration | None:
    """Return the next iteration if it has started. Raises what its start has raised."""
    item = following.result() if following.done() else None
    return item if isinstance(item, OpenIteration) else None


def share_of_cores(host: Comm) -> int:
    """Return how many threads this trainer uses.

    This is OMP_NUM_THREADS if it is set, else the number of cores that this rank may use, divided by the number of
    trainers that may use some of the same cores.

    Args:
        host: The communicator of the trainers of this host.
    Communication: collective over host.
    """
    mine = os.sched_getaffinity(0)
    cores_of_all = [set(cores) for cores in all_gather_json(host, sorted(mine))]
    num_sharing = sum(1 for cores in cores_of_all if cores & mine)
    setting = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # the outermost of nested levels
    return int(setting) if setting.isdigit() and int(setting) else max(1, len(mine) // num_sharing)
