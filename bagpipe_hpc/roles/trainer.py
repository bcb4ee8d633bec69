"""A trainer, from start to end: a prefetch thread that runs ahead, and the thread that computes.

oracle            prefetch thread             main thread                  servers, peers
  |--- plan n -->  1 receive plan n
  |                2 wait for ready n, Get  <----------------------------------- stages
  |                3 queue (at most P) --->   4 plan i with its rows
  |                                           5 play (training/step.py)  <-----> peers, Horovod
  |                                           6 Put write-backs of i, written i -> stages
  | <------------------------- 7 report: loss |
  |--- end ----->  8 None ------------------> 9 evaluation results, counters, dense parameters -> oracle

"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from queue import Queue
from typing import Any

import numpy as np
import psutil
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.config import Config
from bagpipe_hpc.lookahead.plan import TrainerPlan
from bagpipe_hpc.roles.communicators import Communicators
from bagpipe_hpc.roles.job import JobSpec
from bagpipe_hpc.roles.report import REPORT
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.training.cache import RowCache
from bagpipe_hpc.training.dense import DenseSynchronizer, dense_parameters
from bagpipe_hpc.training.metrics import EvaluationResult, evaluate_predictions
from bagpipe_hpc.training.models import build_model
from bagpipe_hpc.training.row_optimizer import RowSGD
from bagpipe_hpc.training.step import Stopwatch, TrainingStep
from bagpipe_hpc.transport.base import TrainerEnd
from bagpipe_hpc.transport.channel import PlanReceiver
from bagpipe_hpc.transport.direct import DirectTrainer
from bagpipe_hpc.transport.peers import PeerExchange
from bagpipe_hpc.transport.staged import StagedTrainer
from bagpipe_hpc.transport.window import RowWindow

Float32Array = NDArray[np.float32]


def run_trainer(spec: JobSpec, topology: Topology, comms: Communicators) -> None:
    """Train until the plans end. Communication: see the timeline."""
    end = _open_transport(spec.config, topology, comms)
    trainer = _Trainer(spec, comms)
    comms.world.gather(trainer.cache_limit())
    trainer.open_cache(comms.world.bcast(None))
    prefetcher = _Prefetcher(comms, end, spec.config, trainer.row_width)
    trainer.run(prefetcher, end)
    trainer.report_totals(prefetcher)
    end.close()


def _open_transport(config: Config, topology: Topology, comms: Communicators) -> TrainerEnd:
    width = config.model.embedding_dim + RowSGD.state_width
    if config.transport == "direct":
        return DirectTrainer(comms.rows, topology.num_servers, RowWindow(comms.rows, 0, width))
    return StagedTrainer(comms.rows, topology.num_servers, config.prefetch_depth + 1, width)


@dataclass(frozen=True)
class _Landed:
    plan: TrainerPlan
    rows: Float32Array
    planned_at: float  # when the plan arrived, by time.perf_counter


class _Prefetcher:
    """Receives plans and takes their rows ahead of time (1 to 3)."""

    def __init__(self, comms: Communicators, end: TrainerEnd, config: Config, row_width: int) -> None:
        self._plans = PlanReceiver(comms.plans)
        self._end = end
        self._row_width = row_width
        self._landed: Queue[_Landed | None] = Queue(maxsize=max(1, config.prefetch_depth))
        self.bytes_received = 0
        # A daemon: where the main thread fails, the job is aborted and nothing waits for this one.
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def _run(self) -> None:
        while (plan := self._plans.next()) is not None:  # 1
            assert isinstance(plan, TrainerPlan)
            planned_at = time.perf_counter()
            rows = np.empty((len(plan.fetch_slots), self._row_width), dtype=np.float32)
            self._end.fetch(plan, rows)  # 2
            self._landed.put(_Landed(plan, rows, planned_at))  # 3
        self.bytes_received = self._plans.bytes_received
        self._landed.put(None)

    def next(self, watch: Stopwatch) -> tuple[TrainerPlan, Float32Array] | None:
        """The next plan and its rows; waiting is counted by its cause."""
        start = time.perf_counter()
        landed = self._landed.get()
        stop = time.perf_counter()
        if landed is None:
            return None
        waited_for_plan = max(0.0, min(landed.planned_at, stop) - start)
        watch.seconds["plan_wait"] += waited_for_plan
        watch.seconds["prefetch_wait"] += stop - start - waited_for_plan
        return landed.plan, landed.rows


class _Trainer:
    """Wires the training step to its surroundings."""

    def __init__(self, spec: JobSpec, comms: Communicators) -> None:
        import horovod.torch as hvd

        hvd.init(comm=comms.trainers)
        self._spec, self._comms = spec, comms
        self._config = spec.config
        self._node = comms.trainers.Split_type(MPI.COMM_TYPE_SHARED)
        self._device = choose_device(self._node)
        torch.set_num_threads(self._config.training.threads or share_of_cores(self._node))
        self._model = build_model(
            self._config.model, spec.num_dense, len(spec.num_embeddings), self._config.training.seed
        ).to(self._device)
        self._row_optimizer = RowSGD(self._config.training.learning_rate)
        self._watch = Stopwatch()
        self._peers = PeerExchange(comms.trainers)
        self._counters = dict.fromkeys(("iterations", "samples", "rows_fetched", "rows_written_back", "rows_pushed"), 0)
        self._predictions: list[tuple[Float32Array, Float32Array]] = []
        self._dense = DenseSynchronizer(self._model)
        self._seconds_training = 0.0

    @property
    def row_width(self) -> int:
        return self._config.model.embedding_dim + self._row_optimizer.state_width

    def cache_limit(self) -> int:
        """Slots this trainer can offer: the setting, else what a quarter of the free memory holds."""
        if self._config.cache.rows is not None:
            return self._config.cache.rows
        if self._device.type == "cuda":
            free = torch.cuda.mem_get_info(self._device)[0]
        else:
            free = psutil.virtual_memory().available // self._node.size
        rows = int(free // 4 // (4 * self.row_width))
        return max(1, min(rows, KeySpace(self._spec.num_embeddings).num_keys))

    def open_cache(self, num_slots: int) -> None:
        """Make the cache, as large as the oracle plans with, and the step that plays on it."""
        self._step = TrainingStep(
            trainer_rank=self._comms.trainers.rank,
            model=self._model,
            embedding_dim=self._config.model.embedding_dim,
            cache=RowCache(num_slots, self.row_width, self._device),
            row_optimizer=self._row_optimizer,
            dense_optimizer=torch.optim.SGD(self._model.parameters(), lr=self._config.training.learning_rate),
            dense=self._dense,
            peers=self._peers,
            stopwatch=self._watch,
        )

    def run(self, prefetcher: _Prefetcher, end: TrainerEnd) -> None:
        """Play every plan."""
        start = time.perf_counter()
        while (item := prefetcher.next(self._watch)) is not None:  # 4
            plan, rows = item
            leaving, loss, logits = self._step.play(plan, rows)  # 5
            with self._watch.time("write_back"):
                end.write_back(plan, leaving)  # 6
            self._account(plan, loss, logits)  # 7
            if not plan.read_only:
                self._seconds_training = time.perf_counter() - start
                self._training_seconds_by_cause = dict(self._watch.seconds)

    def _account(self, plan: TrainerPlan, loss: float, logits: Float32Array) -> None:
        if plan.read_only:
            self._predictions.append((logits, plan.labels))
        else:
            self._counters["iterations"] += 1
            self._counters["samples"] += plan.num_samples
            self._counters["rows_fetched"] += len(plan.fetch_slots)
            self._counters["rows_written_back"] += len(plan.write_back_slots)
            self._counters["rows_pushed"] += len(plan.push_index)
        if self._comms.trainers.rank == 0:
            self._comms.reports.Send(REPORT.pack(plan.iteration, loss, plan.read_only), ORACLE_RANK)

    def report_totals(self, prefetcher: _Prefetcher) -> None:
        """Send the oracle what this trainer counted (9). Communication: collective over trainers and world."""
        row_bytes = 4 * self.row_width
        totals: dict[str, Any] = {
            "seconds": self._seconds_training,
            "seconds_by_cause": self._training_seconds_by_cause,
            **self._counters,
            "bytes_plans": prefetcher.bytes_received,
            "bytes_fetched": self._counters["rows_fetched"] * row_bytes,
            "bytes_written_back": self._counters["rows_written_back"] * row_bytes,
            "bytes_exchanged": self._peers.bytes_sent,
            "bytes_dense": self._counters["iterations"] * self._dense.num_bytes,
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "evaluation": self._evaluate(),
            "dense_parameters": dense_parameters(self._model) if self._comms.trainers.rank == 0 else None,
        }
        self._comms.world.gather(totals)

    def _evaluate(self) -> EvaluationResult | None:
        """Metrics over the predictions of all trainers, at trainer 0."""
        shares = self._comms.trainers.gather(self._predictions)
        if not shares or not shares[0]:
            return None
        pieces = [piece for share in shares for piece in share]
        return evaluate_predictions(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def choose_device(node: MPI.Intracomm) -> torch.device:
    """GPU `local_rank % device_count` where there is one, else the CPU; node: the trainers of this host."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", node.rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def share_of_cores(node: MPI.Intracomm) -> int:
    """Cores this rank may use, divided by the trainers that may use the same ones. Communication: collective."""
    mine = os.sched_getaffinity(0)
    num_sharing = sum(1 for cores in node.allgather(mine) if cores & mine)
    return max(1, len(mine) // num_sharing)
