"""One iteration of one trainer, as its plan says: start, compute (gather, the caller's loss, apply), finish.

    start      1  set aside forced evictions     cache -> aside
               2  insert fetched rows            fetched -> cache
               3  early pushes                   cache -> peers: replicas that the iteration before does not update
    gather     4  critical pushes                cache -> peers: the other replicas
               5  forward, backward              by the caller: rows -> loss, gradients; dense allreduce along with it
    apply      6  critical gradients             of replicas that the next iteration uses, to their owners
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
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.buffers import BufferPool, HostBuffer, HostMemory
from bagpipe_hpc.trainer.cache import RowCache, to_device, to_host
from bagpipe_hpc.trainer.dense_optimizer import DenseOptimizer
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, row_gradients
from bagpipe_hpc.trainer.wire import Wire, WireArray, gradient_scale

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

Classes = tuple[int, ...]
GRAY_CLASSES = np.arange(4, dtype=np.int8)
ALL = (0, 1, 2, 3)
EARLY_PUSHES, CRITICAL_PUSHES = (0, 1), (2, 3)  # Gray classes, see protocol/plan.py
CRITICAL_GRADIENTS, DELAYED_GRADIENTS = (1, 2), (0, 3)


class Peers(Protocol):
    """What the step needs of the exchange between trainers."""

    def swap(
        self, outgoing: WireArray, send_counts: Int32Array, incoming: WireArray, receive_counts: Int32Array
    ) -> None:
        """Blocks of rows out and in; see transport/peers.py."""


class DenseGradients(Protocol):
    """What the step needs of the sum of dense gradients; see trainer/dense_gradients.py."""

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
        self.seconds: defaultdict[str, float] = defaultdict(float)  # since the last iteration ended
        self.counted: defaultdict[str, float] = defaultdict(float)  # of all iterations that count

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

    def end_iteration(self, *, counts: bool) -> None:
        """Note that an iteration ends, and that the next one begins.

        Args:
            counts: Whether the times of this one count.
        """
        for cause, seconds in self.seconds.items() if counts else ():
            self.counted[cause] += seconds
        self.seconds.clear()


@dataclass(frozen=True)
class _Lane:
    """What one thread exchanges with: a way to the other trainers, and memory for what is on it."""

    peers: Peers
    watch: Stopwatch
    outgoing: HostBuffer
    incoming: HostBuffer


@dataclass
class OpenIteration:
    """What an iteration hands from part to part."""

    plan: TrainerPlan
    aside: torch.Tensor  # rows forced out, in write_back_slots order
    pushed: _Blocks  # entries of push_index
    replicated: _Blocks  # entries of replicas
    updated: dict[Classes, Int64Array]  # positions in update_slots, ascending: rows updated with those gradients
    replicas_buffer: HostBuffer  # from `start` to `gather`
    replicas: WireArray  # (replica_counts.sum(), row_dim) in that buffer, as they travelled
    own_gradients: torch.Tensor = field(init=False)  # (num_own, row_dim)
    gradients_buffer: HostBuffer = field(init=False)  # from `apply` to `finish`
    replica_gradients: WireArray = field(init=False)  # (len(replicas), row_dim) in that buffer, as they will travel


class TrainingStep:
    """Plays plans on the rows of one trainer.

    Args:
        trainer_rank: This trainer.
        model: (dense, embedded) -> logits.
        row_dim: Columns of a row that are trained.
        pooling: From rows to the vectors of samples.
        table_names: Of each table.
        cache: Rows this trainer owns.
        row_optimizer: For rows.
        dense_optimizer: For the model's parameters.
        dense_gradients: Sums the gradients of dense parameters.
        in_bfloat16: Whether the model computes in bfloat16 where torch.autocast finds that safe.
        peers: The other trainers, for `gather` and `apply`.
        delayed_peers: The other trainers, for `start` and `finish`; None: nothing is early or delayed.
        wire: How rows and gradients travel among them.
        stopwatch: Gets the time of each part.
        delayed_stopwatch: Gets that of `start` and `finish`.

    `is_overlapped` says whether `finish` and `start` may run while the iteration between them computes, `memory` how
    many communication buffers were allocated.
    """

    def __init__(
        self,
        *,
        trainer_rank: int,
        model: torch.nn.Module,
        row_dim: int,
        pooling: Pooling,
        table_names: tuple[str, ...],
        cache: RowCache,
        row_optimizer: RowOptimizer,
        dense_optimizer: DenseOptimizer,
        dense_gradients: DenseGradients,
        in_bfloat16: bool = False,
        peers: Peers,
        delayed_peers: Peers | None,
        wire: Wire,
        stopwatch: Stopwatch,
        delayed_stopwatch: Stopwatch,
    ) -> None:
        self._rank = trainer_rank
        self.model = model
        self._row_dim = row_dim
        self._pooling = pooling
        self._table_names = table_names
        self._cache = cache
        self._row_optimizer = row_optimizer
        self._dense_optimizer = dense_optimizer
        self.dense_gradients = dense_gradients
        self._wire = wire
        self._in_bfloat16 = in_bfloat16
        self._watch = stopwatch
        self._delayed_watch = delayed_stopwatch
        self.is_overlapped = delayed_peers is not None
        self.memory = HostMemory(cache.device)
        self._lane, self._delayed_lane = (
            _Lane(to, watch, HostBuffer(self.memory), HostBuffer(self.memory))
            for to, watch in ((peers, stopwatch), (delayed_peers or peers, delayed_stopwatch))
        )
        self._replicas, self._gradients = BufferPool(self.memory), BufferPool(self.memory)
        self._leaving = HostBuffer(self.memory)

    def exchanged_bytes(self, plan: TrainerPlan) -> int:
        """Bytes that this trainer sends the others in an iteration: rows pushed, gradients of replicas."""
        num_rows = len(plan.push_index) + (0 if plan.read_only else int(plan.replica_counts.sum()))
        return num_rows * self._row_dim * self._wire.array_dtype.itemsize

    @property
    def cache(self) -> RowCache:
        """Rows this trainer owns."""
        return self._cache

    @property
    def dense_optimizer(self) -> torch.optim.Optimizer:
        """Of the model's parameters."""
        return self._dense_optimizer.torch_optimizer

    def start(self, plan: TrainerPlan, fetched: Float32Array) -> OpenIteration:
        """Bring the rows of an iteration together, as far as the iteration before leaves them alone.

        Args:
            fetched: Fetched rows in `fetch_slots` order, float32 (n, row_width).
        Communication: with peers as counted in the plan.
        """
        with self._delayed_watch.time("insert"):
            aside = self._cache.read(plan.write_back_slots[_forced_mask(plan)])  # 1
            self._cache.write(plan.fetch_slots, to_device(fetched, self._cache.device))  # 2
            iteration = self._open(plan, aside)
        if self.is_overlapped:
            with self._delayed_watch.time("early_pushes"):
                self._push(iteration, EARLY_PUSHES, self._delayed_lane)  # 3
        return iteration

    def _open(self, plan: TrainerPlan, aside: torch.Tensor) -> OpenIteration:
        pushed, replicated = _Blocks(plan.push_counts), _Blocks(plan.replica_counts)
        delayed = np.zeros(len(plan.update_slots), dtype=np.bool_)
        if self.is_overlapped:
            delayed[plan.push_index[pushed.part(DELAYED_GRADIENTS).positions]] = True
        updated = {
            self._critical_gradients: np.flatnonzero(~delayed),
            DELAYED_GRADIENTS: np.flatnonzero(delayed),
        }
        buffer = self._replicas.take()
        replicas = buffer.rows(len(replicated), self._row_dim, self._wire.array_dtype)
        return OpenIteration(plan, aside, pushed, replicated, updated, buffer, replicas)

    @property
    def _critical_gradients(self) -> Classes:
        return CRITICAL_GRADIENTS if self.is_overlapped else ALL

    def gather(self, iteration: OpenIteration) -> TrainerBatch:
        """The samples and all their rows, for the caller to step on; for `predict` in read-only iterations.

        Communication: with peers as counted in the plan.
        """
        plan = iteration.plan
        with self._watch.time("exchange"):
            self._push(iteration, CRITICAL_PUSHES if self.is_overlapped else ALL, self._lane)  # 4
        with self._watch.time("cache"):
            own = self._wire.pack(self._cache.read(plan.update_slots[: plan.num_own])[:, : self._row_dim])
            rows = self._wire.unpack(torch.cat([own, to_device(iteration.replicas, own.device)]))
            self._replicas.give_back(iteration.replicas_buffer)
        with self._watch.time("compute"):
            self._dense_optimizer.zero_grad()
            rows.requires_grad_(not plan.read_only)
            return TrainerBatch(
                plan,
                dense=to_device(plan.dense, rows.device),
                embedded=self._pooling(plan, rows),
                rows=rows,
                table_names=self._table_names,
                model=self.model,
                in_bfloat16=self._in_bfloat16,
                before_backward=self.dense_gradients.start,
            )

    def predict(self, batch: TrainerBatch) -> Float32Array:
        """Logits of a share, float32 (num_samples,)."""
        if len(batch) == 0:  # models of the user's own need not bear that
            return np.empty(0, np.float32)
        with self._watch.time("compute"), _evaluation_mode(self.model, self._cache.device):
            return to_host(batch.logits())

    def apply(self, iteration: OpenIteration, batch: TrainerBatch) -> float:
        """Behind backward: what the next iteration needs of the gradients.

        Returns:
            The loss over the global batch.
        Raises:
            OwnModelError: the caller has made no step on the batch.
        Communication: with peers as counted in the plan; collective over the trainers for dense gradients.
        """
        plan = iteration.plan
        scale = gradient_scale(plan.num_global_samples)
        gradients = self._wire.pack(row_gradients(batch), scale)
        iteration.own_gradients = self._wire.unpack(gradients[: plan.num_own], scale)
        iteration.gradients_buffer = self._gradients.take()
        iteration.replica_gradients = iteration.gradients_buffer.fill(gradients[plan.num_own :])
        self._reduce(iteration, self._critical_gradients, self._lane, "exchange")  # 6, 7
        with self._watch.time("dense"):  # 8
            loss = self.dense_gradients.finish()
            self._dense_optimizer.step(plan.num_trained_after)
        return loss

    def finish(self, iteration: OpenIteration) -> Float32Array:
        """The delayed half.

        Returns:
            Rows to write back, float32 (n, row_width) in `write_back_slots` order; valid until the next call.
        Communication: with peers as counted in the plan.
        """
        plan = iteration.plan
        if not plan.read_only:
            if self.is_overlapped:
                self._reduce(iteration, DELAYED_GRADIENTS, self._delayed_lane, "delayed_gradients")  # 9
            self._gradients.give_back(iteration.gradients_buffer)
        with self._delayed_watch.time("drain"):  # 10
            leaving = self._cache.read(plan.write_back_slots)
            if len(iteration.aside):  # other rows have their slots by now
                leaving[torch.from_numpy(_forced_mask(plan))] = iteration.aside
            return self._leaving.fill(leaving)

    def _push(self, iteration: OpenIteration, classes: Classes, lane: _Lane) -> None:
        """Owned rows of these Gray classes to their users; theirs into the replicas."""
        plan = iteration.plan
        outgoing, incoming = iteration.pushed.part(classes), iteration.replicated.part(classes)
        rows = self._cache.read(plan.update_slots[plan.push_index[outgoing.positions]])[:, : self._row_dim]
        received = lane.incoming.rows(len(incoming.positions), self._row_dim, self._wire.array_dtype)
        lane.peers.swap(lane.outgoing.fill(self._wire.pack(rows)), outgoing.counts, received, incoming.counts)
        iteration.replicas[incoming.positions] = received

    def _reduce(self, iteration: OpenIteration, classes: Classes, lane: _Lane, cause: str) -> None:
        """Gradients of replicas of these Gray classes to their owners; then update the rows they belong to."""
        outgoing, incoming = iteration.replicated.part(classes), iteration.pushed.part(classes)
        with lane.watch.time(cause):
            mine = lane.outgoing.rows(len(outgoing.positions), self._row_dim, self._wire.array_dtype)
            np.take(iteration.replica_gradients, outgoing.positions, axis=0, out=mine, mode="clip")  # raise: by a copy
            gradients = lane.incoming.rows(len(incoming.positions), self._row_dim, self._wire.array_dtype)
            lane.peers.swap(mine, outgoing.counts, gradients, incoming.counts)
        with lane.watch.time("update"):
            updates = iteration.plan.push_index[incoming.positions]
            self._update(iteration, iteration.updated[classes], updates, incoming.counts, gradients)

    def _update(
        self,
        iteration: OpenIteration,
        positions: Int64Array,
        updates: Int32Array,
        counts: Int32Array,
        gradients: WireArray,
    ) -> None:
        """Sum the gradients of some owned rows and apply the optimizer.

        Args:
            positions: Of the rows in update_slots, ascending.
            updates: Position in update_slots of each gradient, trainer by trainer.
            counts: int32, shape (T,): gradients from each trainer.
            gradients: As they travelled, shape (len(updates), row_dim).
        """
        if len(positions) == 0:
            return
        plan, device = iteration.plan, self._cache.device
        places = np.empty(len(plan.update_slots), dtype=np.int64)  # of each update among the positions
        places[positions] = np.arange(len(positions))
        sums = torch.zeros((len(positions), self._row_dim), device=device)
        index = to_device(places[updates], device)
        arrived = self._wire.unpack(to_device(gradients, device), gradient_scale(plan.num_global_samples))
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
        self._row_optimizer.step(rows, sums, plan.num_trained_after)
        self._cache.write(slots, rows)


@contextmanager
def _evaluation_mode(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block, the model is in evaluation mode and torch keeps no gradients.

    Afterwards every module is in the mode it was in, and the random number generators of torch are where they were, so
    training goes on as if nothing had been predicted.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Blocks:
    """Entries of the blocks of all trainers, each in Gray order."""

    def __init__(self, counts: Int32Array) -> None:
        self._counts = counts
        # int8, (counts.sum(),): Gray class of each entry
        self._classes = np.repeat(np.resize(GRAY_CLASSES, counts.size), counts.reshape(-1))

    def __len__(self) -> int:
        return len(self._classes)

    def part(self, classes: Classes) -> _Part:
        """Those of some Gray classes."""
        chosen = np.zeros(len(GRAY_CLASSES), dtype=np.bool_)
        chosen[list(classes)] = True
        return _Part(np.flatnonzero(chosen[self._classes]), self._counts @ chosen)


class _Part(NamedTuple):
    positions: Int64Array  # ascending
    counts: Int32Array  # (T,)


def _forced_mask(plan: TrainerPlan) -> NDArray[np.bool_]:
    """Which write-backs leave before the insertions: within each server's block, the first `forced_counts`."""
    mask = np.zeros(len(plan.write_back_slots), dtype=np.bool_)
    start = 0
    for count, forced in zip(plan.write_back_counts.tolist(), plan.forced_counts.tolist(), strict=True):
        mask[start : start + forced] = True
        start += count
    return mask
