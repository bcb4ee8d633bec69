"""One iteration of one trainer, as its plan says.

    1  set aside forced evictions          cache -> aside
    2  insert fetched rows                 landed -> cache
    3  push                                cache -> peers: replicas
    4  compute                             rows -> loss, gradients
    5  dense allreduce                     gradients of the dense parameters, with the loss
    6  send gradients of replicas          to their owners
    7  update                              sum in ascending trainer order, one optimizer step per owned row
    8  drain evictions                     cache, aside -> write-back stage

Read-only iterations (evaluation) stop after the forward half of 4 and go on with 8.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bagpipe_hpc import trace
from bagpipe_hpc.lookahead.plan import TrainerPlan
from bagpipe_hpc.training.cache import RowCache, to_device, to_host
from bagpipe_hpc.training.dense import DenseSynchronizer
from bagpipe_hpc.training.row_optimizer import RowOptimizer

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


class Peers(Protocol):
    """What the step needs of the exchange between trainers."""

    def swap(
        self, outgoing: Float32Array, send_counts: Int32Array, incoming: Float32Array, receive_counts: Int32Array
    ) -> None:
        """Blocks of rows out and in; see transport/peers.py."""


class Stopwatch:
    """Seconds by cause; every block is a span of the trace."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, cause: str) -> Iterator[None]:
        """Add the time of a block."""
        start = time.perf_counter_ns()
        yield
        self.add(cause, start, time.perf_counter_ns())

    def add(self, cause: str, start_ns: int, stop_ns: int, iteration: int | None = None) -> None:
        """Add and trace what has been timed already, by `time.perf_counter_ns`."""
        self.seconds[cause] += (stop_ns - start_ns) / 1e9
        trace.record(cause.replace("_", " "), start_ns, stop_ns, iteration)


class TrainingStep:
    """Plays plans on the rows of one trainer.

    Args:
        trainer_rank: This trainer.
        model: (dense, embedded) -> logits.
        embedding_dim: Columns of a row that hold the embedding.
        num_tables: Ids of a sample.
        cache: Rows this trainer owns.
        row_optimizer: For rows.
        dense_optimizer: For the model's parameters.
        dense: Sums dense gradients.
        peers: The other trainers.
        stopwatch: Gets the time of each part.
    """

    def __init__(
        self,
        trainer_rank: int,
        model: torch.nn.Module,
        embedding_dim: int,
        num_tables: int,
        cache: RowCache,
        row_optimizer: RowOptimizer,
        dense_optimizer: torch.optim.Optimizer,
        dense: DenseSynchronizer,
        peers: Peers,
        stopwatch: Stopwatch,
    ) -> None:
        self._rank = trainer_rank
        self.model = model
        self._dim = embedding_dim
        self._num_tables = num_tables
        self._cache = cache
        self._row_optimizer = row_optimizer
        self._dense_optimizer = dense_optimizer
        self.dense = dense
        self._peers = peers
        self._watch = stopwatch

    def play(self, plan: TrainerPlan, landed: Float32Array) -> tuple[Float32Array, float, Float32Array]:
        """Play one iteration.

        Args:
            landed: Fetched rows in `fetch_slots` order, float32 (n, row_width).
        Returns:
            Rows to write back, float32 (m, row_width) in `write_back_slots` order; the loss over the global batch (nan
            in read-only iterations); logits of this trainer's share, float32 (num_samples,).
        Communication: with peers as counted in the plan; collective over the trainers for dense gradients.
        """
        with self._watch.time("cache"):
            forced = _forced_mask(plan)
            aside = self._cache.read(plan.write_back_slots[forced])  # 1
            self._cache.write(plan.fetch_slots, to_device(landed, self._cache.device))  # 2
        with self._watch.time("exchange"):
            rows = self._collect_rows(plan)  # 3
        if plan.read_only:
            with self._watch.time("compute"), torch.no_grad():
                logits, loss = self._forward(plan, rows[:, : self._dim]), float("nan")
        else:
            logits, loss = self._train(plan, rows[:, : self._dim].contiguous().requires_grad_())
        with self._watch.time("cache"):
            leaving = torch.empty((len(plan.write_back_slots), rows.shape[1]), device=rows.device)  # 8
            leaving[torch.from_numpy(~forced)] = self._cache.read(plan.write_back_slots[~forced])
            leaving[torch.from_numpy(forced)] = aside
        return to_host(leaving), loss, to_host(logits)

    @property
    def cache(self) -> RowCache:
        """Rows this trainer owns."""
        return self._cache

    @property
    def dense_optimizer(self) -> torch.optim.Optimizer:
        """Of the model's parameters."""
        return self._dense_optimizer

    def _collect_rows(self, plan: TrainerPlan) -> torch.Tensor:
        """This trainer's rows of the iteration: own ones, then replicas by owner."""
        own = self._cache.read(plan.update_slots[: plan.num_own])
        outgoing = to_host(self._cache.read(plan.update_slots[plan.push_index]))
        incoming = np.empty((int(plan.replica_counts.sum()), own.shape[1]), dtype=np.float32)
        self._peers.swap(outgoing, plan.push_counts.sum(axis=1), incoming, plan.replica_counts.sum(axis=1))
        return torch.cat([own, to_device(incoming, own.device)])

    def _forward(self, plan: TrainerPlan, embeddings: torch.Tensor) -> torch.Tensor:
        # (num_samples, num_tables)
        sample_rows = to_device(plan.sample_rows, embeddings.device).view(self._num_tables, plan.num_samples).t()
        dense = to_device(plan.dense, embeddings.device)
        logits: torch.Tensor = self.model(dense, functional.embedding(sample_rows, embeddings))
        return logits

    def _train(self, plan: TrainerPlan, embeddings: torch.Tensor) -> tuple[torch.Tensor, float]:
        with self._watch.time("compute"):  # 4
            self._dense_optimizer.zero_grad(set_to_none=True)
            logits = self._forward(plan, embeddings)
            labels = to_device(plan.labels, embeddings.device)
            share = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            share_loss = share / plan.num_global_samples
            share_loss.backward()
        with self._watch.time("dense"):  # 5
            loss = self.dense.synchronise(share_loss)
            self._dense_optimizer.step()
        assert embeddings.grad is not None
        with self._watch.time("exchange"):  # 6
            incoming = np.empty((len(plan.push_index), self._dim), dtype=np.float32)
            outgoing = to_host(embeddings.grad[plan.num_own :])
            self._peers.swap(outgoing, plan.replica_counts.sum(axis=1), incoming, plan.push_counts.sum(axis=1))
        with self._watch.time("update"):  # 7
            self._update(plan, embeddings.grad[: plan.num_own], to_device(incoming, embeddings.device))
        return logits, loss

    def _update(self, plan: TrainerPlan, own: torch.Tensor, incoming: torch.Tensor) -> None:
        sums = torch.zeros((len(plan.update_slots), self._dim), device=own.device)
        index = to_device(plan.push_index, own.device)
        start = 0
        for trainer, count in enumerate(plan.push_counts.sum(axis=1).tolist()):
            if trainer == self._rank:
                sums[: plan.num_own] += own
            elif count:
                # Positions within one trainer's block are unique, so the order of additions is the trainers'.
                sums.index_add_(0, index[start : start + count], incoming[start : start + count])
                start += count
        rows = self._cache.read(plan.update_slots)
        self._row_optimizer.step(rows, sums)
        self._cache.write(plan.update_slots, rows)


def _forced_mask(plan: TrainerPlan) -> NDArray[np.bool_]:
    """Which write-backs leave before the insertions: within each server's block, the first `forced_counts`."""
    mask = np.zeros(len(plan.write_back_slots), dtype=np.bool_)
    start = 0
    for count, forced in zip(plan.write_back_counts.tolist(), plan.forced_counts.tolist(), strict=True):
        mask[start : start + forced] = True
        start += count
    return mask
