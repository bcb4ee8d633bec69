"""One iteration of one trainer, as its plan says, in three parts.

    start      1  set aside forced evictions     cache -> aside
               2  insert fetched rows            landed -> cache
               3  early pushes                   cache -> peers: replicas that the iteration before does not update
    compute    4  critical pushes                cache -> peers: the other replicas
               5  forward, backward              rows -> loss, gradients; the dense allreduce runs along with backward
               6  critical gradients             of replicas that the next iteration uses, to their owners
               7  update                         sum in ascending trainer order, one optimizer step per owned row
               8  dense parameters               when their gradients are summed
    finish     9  delayed gradients, update      of all other replicas
              10  drain evictions                cache, aside -> write-back stage

Overlapped, `finish` of i - 1 and then `start` of i + 1 run while i computes, in a thread and on a communicator of their
own. That is safe because the plan gives slots and rows an iteration of grace (lookahead/residency.py): the slots that
`start` of i + 1 fills and the rows that it sets aside or pushes early are none that i uses, and what it pushes was
updated at the latest by the `finish` before it. One after the other, nothing is early or delayed (paper section 3.3).

Read-only iterations (evaluation) have no gradients: 6 to 9 fall away.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bagpipe_hpc import trace
from bagpipe_hpc.lookahead.plan import TrainerPlan
from bagpipe_hpc.training.cache import RowCache, to_device, to_host
from bagpipe_hpc.training.dense_optimizer import DenseOptimizer
from bagpipe_hpc.training.row_optimizer import RowOptimizer

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

Classes = tuple[int, ...]
ALL = (0, 1, 2, 3)
EARLY_PUSHES, CRITICAL_PUSHES = (0, 1), (2, 3)  # Gray classes, see lookahead/plan.py
CRITICAL_GRADIENTS, DELAYED_GRADIENTS = (1, 2), (0, 3)


class Peers(Protocol):
    """What the step needs of the exchange between trainers."""

    def swap(
        self, outgoing: Float32Array, send_counts: Int32Array, incoming: Float32Array, receive_counts: Int32Array
    ) -> None:
        """Blocks of rows out and in; see transport/peers.py."""


class Dense(Protocol):
    """What the step needs of the sum of dense gradients; see training/dense.py."""

    @property
    def num_bytes(self) -> int:
        """Bytes of an iteration's allreduces."""

    def start(self, loss: torch.Tensor) -> None:
        """Before backward."""

    def finish(self) -> float:
        """After it: every gradient is the sum over the trainers; returns the summed loss."""


class Stopwatch:
    """Seconds by cause; every block is a span of the trace."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, cause: str, iteration: int | None = None) -> Iterator[None]:
        """Add the time of a block; its span is of this iteration, or of that of the span around it."""
        start = time.perf_counter_ns()
        yield
        self.add(cause, start, time.perf_counter_ns(), iteration)

    def add(self, cause: str, start_ns: int, stop_ns: int, iteration: int | None = None) -> None:
        """Add and trace what has been timed already, by `time.perf_counter_ns`."""
        self.seconds[cause] += (stop_ns - start_ns) / 1e9
        trace.record(cause.replace("_", " "), start_ns, stop_ns, iteration)


@dataclass
class OpenIteration:
    """What an iteration hands from part to part."""

    plan: TrainerPlan
    aside: torch.Tensor  # rows forced out, in write_back_slots order
    replicas: Float32Array  # (replica_counts.sum(), row_width) on the host
    own_gradients: torch.Tensor = field(init=False)  # (num_own, row_dim)
    replica_gradients: Float32Array = field(init=False)  # (len(replicas), row_dim) on the host


class TrainingStep:
    """Plays plans on the rows of one trainer.

    Args:
        trainer_rank: This trainer.
        model: (dense, embedded) -> logits.
        row_dim: Columns of a row that are trained.
        num_tables: Ids of a sample.
        cache: Rows this trainer owns.
        row_optimizer: For rows.
        dense_optimizer: For the model's parameters.
        dense: Sums dense gradients.
        in_bfloat16: Whether the model computes in bfloat16 where torch.autocast finds that safe.
        peers: The other trainers, for `compute`.
        delayed_peers: The other trainers, for `start` and `finish`; None: nothing is early or delayed.
        stopwatch: Gets the time of each part.
        delayed_stopwatch: Gets that of `start` and `finish`.
    """

    def __init__(
        self,
        *,
        trainer_rank: int,
        model: torch.nn.Module,
        row_dim: int,
        num_tables: int,
        cache: RowCache,
        row_optimizer: RowOptimizer,
        dense_optimizer: DenseOptimizer,
        dense: Dense,
        in_bfloat16: bool = False,
        peers: Peers,
        delayed_peers: Peers | None,
        stopwatch: Stopwatch,
        delayed_stopwatch: Stopwatch,
    ) -> None:
        self._rank = trainer_rank
        self.model = model
        self._row_dim = row_dim
        self._num_tables = num_tables
        self._cache = cache
        self._row_optimizer = row_optimizer
        self._dense_optimizer = dense_optimizer
        self.dense = dense
        self._in_bfloat16 = in_bfloat16
        self._peers = peers
        self._delayed_peers = delayed_peers
        self._watch = stopwatch
        self._delayed_watch = delayed_stopwatch

    @property
    def is_overlapped(self) -> bool:
        """Whether `finish` and `start` may run while the iteration between them computes."""
        return self._delayed_peers is not None

    @property
    def cache(self) -> RowCache:
        """Rows this trainer owns."""
        return self._cache

    @property
    def dense_optimizer(self) -> torch.optim.Optimizer:
        """Of the model's parameters."""
        return self._dense_optimizer.torch_optimizer

    def start(self, plan: TrainerPlan, landed: Float32Array) -> OpenIteration:
        """Bring the rows of an iteration together, as far as the iteration before leaves them alone.

        Args:
            landed: Fetched rows in `fetch_slots` order, float32 (n, row_width).
        Communication: with peers as counted in the plan.
        """
        with self._delayed_watch.time("insert"):
            aside = self._cache.read(plan.write_back_slots[_forced_mask(plan)])  # 1
            self._cache.write(plan.fetch_slots, to_device(landed, self._cache.device))  # 2
            replicas = np.empty((int(plan.replica_counts.sum()), landed.shape[1]), dtype=np.float32)
        iteration = OpenIteration(plan, aside, replicas)
        if self._delayed_peers is not None:
            with self._delayed_watch.time("early_pushes"):
                self._push(iteration, EARLY_PUSHES, self._delayed_peers)  # 3
        return iteration

    def compute(self, iteration: OpenIteration) -> tuple[float, Float32Array]:
        """Forward, backward, and what the next iteration needs.

        Returns:
            The loss over the global batch (nan in read-only iterations); logits of this trainer's share, float32
            (num_samples,).
        Communication: with peers as counted in the plan; collective over the trainers for dense gradients.
        """
        plan = iteration.plan
        with self._watch.time("exchange"):
            self._push(iteration, CRITICAL_PUSHES if self.is_overlapped else ALL, self._peers)  # 4
        with self._watch.time("cache"):
            own = self._cache.read(plan.update_slots[: plan.num_own])
            rows = torch.cat([own, to_device(iteration.replicas, own.device)])[:, : self._row_dim]
        if plan.read_only:
            with self._watch.time("compute"), torch.no_grad():
                return float("nan"), to_host(self._forward(plan, rows))
        rows = rows.contiguous().requires_grad_()
        with self._watch.time("compute"):  # 5
            self._dense_optimizer.zero_grad()
            logits = self._forward(plan, rows)
            labels = to_device(plan.labels, rows.device)
            share = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            share_loss = share / plan.num_global_samples
            self.dense.start(share_loss)
            share_loss.backward()
        assert rows.grad is not None
        iteration.own_gradients = rows.grad[: plan.num_own]
        iteration.replica_gradients = to_host(rows.grad[plan.num_own :])
        critical = CRITICAL_GRADIENTS if self.is_overlapped else ALL
        self._reduce(iteration, critical, self._peers, self._watch, "exchange")  # 6, 7
        with self._watch.time("dense"):  # 8
            loss = self.dense.finish()
            self._dense_optimizer.step(plan.iteration)
        return loss, to_host(logits)

    def finish(self, iteration: OpenIteration) -> Float32Array:
        """The delayed half.

        Returns:
            Rows to write back, float32 (n, row_width) in `write_back_slots` order.
        Communication: with peers as counted in the plan.
        """
        plan = iteration.plan
        if self._delayed_peers is not None and not plan.read_only:
            self._reduce(
                iteration, DELAYED_GRADIENTS, self._delayed_peers, self._delayed_watch, "delayed_gradients"
            )  # 9
        with self._delayed_watch.time("drain"):  # 10
            forced = _forced_mask(plan)
            leaving = torch.empty((len(forced), iteration.replicas.shape[1]), device=self._cache.device)
            leaving[torch.from_numpy(~forced)] = self._cache.read(plan.write_back_slots[~forced])
            leaving[torch.from_numpy(forced)] = iteration.aside
            return to_host(leaving)

    def _push(self, iteration: OpenIteration, classes: Classes, peers: Peers) -> None:
        """Owned rows of these Gray classes to their users; theirs into the replicas."""
        plan = iteration.plan
        outgoing, incoming = _Part(plan.push_counts, classes), _Part(plan.replica_counts, classes)
        rows = to_host(self._cache.read(plan.update_slots[plan.push_index[outgoing.positions]]))
        landed = np.empty((len(incoming.positions), rows.shape[1]), dtype=np.float32)
        peers.swap(rows, outgoing.counts, landed, incoming.counts)
        iteration.replicas[incoming.positions] = landed

    def _forward(self, plan: TrainerPlan, rows: torch.Tensor) -> torch.Tensor:
        # (num_samples, num_tables)
        sample_rows = to_device(plan.sample_rows, rows.device).view(self._num_tables, plan.num_samples).t()
        dense = to_device(plan.dense, rows.device)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            logits: torch.Tensor = self.model(dense, functional.embedding(sample_rows, rows))
        return logits.float()

    def _reduce(self, iteration: OpenIteration, classes: Classes, peers: Peers, watch: Stopwatch, cause: str) -> None:
        """Gradients of replicas of these Gray classes to their owners; then update the rows they belong to."""
        plan = iteration.plan
        with watch.time(cause):
            outgoing, incoming = _Part(plan.replica_counts, classes), _Part(plan.push_counts, classes)
            gradients = np.empty((len(incoming.positions), self._row_dim), dtype=np.float32)
            peers.swap(iteration.replica_gradients[outgoing.positions], outgoing.counts, gradients, incoming.counts)
        with watch.time("update"):
            updates = plan.push_index[incoming.positions]
            self._update(iteration, self._rows_to_update(plan, classes), updates, incoming.counts, gradients)

    def _rows_to_update(self, plan: TrainerPlan, classes: Classes) -> Int64Array:
        """Positions in update_slots: rows with delayed gradients, or all others."""
        delayed = np.zeros(len(plan.update_slots), dtype=np.bool_)
        if self.is_overlapped:
            delayed[plan.push_index[_Part(plan.push_counts, DELAYED_GRADIENTS).positions]] = True
        return np.flatnonzero(delayed if classes == DELAYED_GRADIENTS else ~delayed)

    def _update(
        self,
        iteration: OpenIteration,
        positions: Int64Array,
        updates: Int32Array,
        counts: Int32Array,
        gradients: Float32Array,
    ) -> None:
        """Sum the gradients of some owned rows and apply the optimizer.

        Args:
            positions: Of the rows in update_slots, ascending.
            updates: Position in update_slots of each gradient, trainer by trainer.
            counts: int32, shape (T,): gradients from each trainer.
            gradients: float32, shape (len(updates), row_dim).
        """
        plan, device = iteration.plan, self._cache.device
        places = np.empty(len(plan.update_slots), dtype=np.int64)  # of each update among the positions
        places[positions] = np.arange(len(positions))
        sums = torch.zeros((len(positions), self._row_dim), device=device)
        index, arrived = to_device(places[updates], device), to_device(gradients, device)
        num_own = int(np.searchsorted(positions, plan.num_own))  # own rows come first
        start = 0
        for trainer, count in enumerate(counts.tolist()):
            if trainer == self._rank:
                sums[:num_own] += iteration.own_gradients[to_device(positions[:num_own], device)]
            elif count:
                # Positions within one trainer's block are unique, so the order of additions is the trainers'.
                sums.index_add_(0, index[start : start + count], arrived[start : start + count])
                start += count
        slots = plan.update_slots[positions]
        rows = self._cache.read(slots)
        self._row_optimizer.step(rows, sums, plan.iteration)
        self._cache.write(slots, rows)


class _Part:
    """Entries of some Gray classes in the blocks of all trainers."""

    def __init__(self, counts: Int32Array, classes: Classes) -> None:
        chosen = np.zeros(4, dtype=np.bool_)
        chosen[list(classes)] = True
        self.positions = np.flatnonzero(np.repeat(np.tile(chosen, len(counts)), counts.reshape(-1)))
        self.counts: Int32Array = counts[:, chosen].sum(axis=1, dtype=np.int32)


def _forced_mask(plan: TrainerPlan) -> NDArray[np.bool_]:
    """Which write-backs leave before the insertions: within each server's block, the first `forced_counts`."""
    mask = np.zeros(len(plan.write_back_slots), dtype=np.bool_)
    start = 0
    for count, forced in zip(plan.write_back_counts.tolist(), plan.forced_counts.tolist(), strict=True):
        mask[start : start + forced] = True
        start += count
    return mask
