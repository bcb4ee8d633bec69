"""One iteration of one trainer, as its plan says: start, compute (gather, the caller's loss, apply), finish.

    start      1  copy forced evictions          cache -> forced rows
               2  insert fetched rows            fetched rows -> cache
               3  early pushes                   cache -> peers: rows that the iteration before does not update
    gather     4  critical pushes                cache -> peers: the other pushed rows; they may begin before 8 of i - 1
               5  forward, backward              the caller: rows -> loss, gradients; the dense allreduce begins
    apply      6  critical gradients             replicas that the next iteration uses -> owners
               7  update                         sum in ascending trainer order, one optimizer step per owned row
               8  dense parameters               one optimizer step after their gradients are summed
    finish     9  delayed gradients, update      all other replicas -> owners
              10  drain evictions                cache -> the buffer of forced rows; trainer.py puts it into the stages

If iterations overlap, `finish` of i - 1 and then `start` of i + 1 run while i computes, in their own thread and on
their own communicator. That is safe, because the planner does not reuse a slot or a row too soon
(lookahead/residency.py): i uses none of the slots that `start` of i + 1 fills, and none of the rows that it copies. i
updates none of the rows that it pushes early: they got their last update in the `finish` before it, or earlier. If
iterations do not overlap, nothing is early or delayed (paper section 3.3).

Read-only iterations (evaluation) have no gradients, so they skip 6 to 9.

The step says what moves where; `trainer/device/` moves it. On a GPU the host runs ahead of the device. Then the marks
of `device/base.py` keep the order between the streams of the threads, and the host waits for copies down only: of
pushed rows, of gradients for peers, and of rows that leave.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.buffers import BufferPool, RowBuffer
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.dense_optimizer import DenseOptimizer
from bagpipe_hpc.trainer.device.base import (
    ARRIVED,
    Arrival,
    Device,
    DeviceArray,
    Forward,
    Mark,
    Mirror,
    PlacedSamples,
    RowJob,
    SampleRows,
    UpdateLists,
)
from bagpipe_hpc.trainer.gray_blocks import (
    CRITICAL_GRADIENTS,
    CRITICAL_PUSHES,
    DELAYED_GRADIENTS,
    EARLY_PUSHES,
    EVERYTHING,
    Part,
)
from bagpipe_hpc.trainer.objective import Objective
from bagpipe_hpc.trainer.placed_iteration import (
    IterationPlacer,
    PlacedIteration,
    PlacedPushes,
    PlacedUpdates,
)
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
from bagpipe_hpc.trainer.sample_blocks import ONE_BLOCK, BlockShare
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, row_gradients
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator
from bagpipe_hpc.trainer.wire import Wire, gradient_scale
from bagpipe_hpc.transport.blocks import blocks_by_rank

Float32Array = NDArray[np.float32]
Blocks = Iterable[tuple[int, DeviceArray]]
Loss = Callable[[], float]  # waits for the loss if the device has not computed it yet


class Swap(Protocol):
    """Blocks on their way, as the step needs them."""

    def finish(self) -> None:
        """Wait until all blocks have left and arrived. Communication: complete on return."""


class Peers(Protocol):
    """The exchange between trainers, as the step needs it."""

    def begin(self, outgoing: Blocks, incoming: Blocks) -> Swap:
        """Begin to send blocks of rows to other trainers and to receive blocks from others; see transport/peers.py.

        Args:
            outgoing: Trainers and their blocks, float32 or int16, shape (n, row_dim), C-contiguous: arrays in host
                memory, or tensors if the device exposes its memory.
            incoming: Trainers, and the same for the blocks that they send, of the same dtype.
        Communication: with these trainers, from here to the return of `Swap.finish`.
        """


class DenseGradients(Protocol):
    """The sum of dense gradients, as the step needs it; see trainer/dense_gradients.py."""

    @property
    def num_bytes(self) -> int:
        """The number of bytes that the allreduces of one iteration sum."""

    def start(self, loss: torch.Tensor, *, is_last: bool = True) -> None:
        """Prepare for the backward pass of a block. The loss is a scalar. The last block starts the allreduces."""

    def end_block(self) -> None:
        """Note that the backward pass of a block has ended."""

    def finish(self) -> Loss:
        """Return the summed loss. Work after this call finds the sum over the trainers in every gradient."""


def _nothing() -> None:
    """Return no iteration."""


class Stopwatch:
    """Adds up seconds by cause. Each timed block is also a span of the trace."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)  # since the end of the last iteration
        self.counted: defaultdict[str, float] = defaultdict(float)  # in all iterations that count

    @contextmanager
    def time(self, cause: str, iteration: int | None = None) -> Iterator[None]:
        """Time a block.

        Args:
            cause: The time of the block is added to the seconds of this cause.
            iteration: The stream_position of the span. None: that of the enclosing span.
        """
        start = time.perf_counter_ns()
        yield
        self.add(cause, start, time.perf_counter_ns(), iteration)

    def add(self, cause: str, start_ns: int, stop_ns: int, iteration: int | None = None) -> None:
        """Add the time between two readings of `time.perf_counter_ns`, and trace it; see `time` for the arguments."""
        self.seconds[cause] += (stop_ns - start_ns) / 1e9
        trace.record(cause.replace("_", " "), start_ns, stop_ns, iteration)

    def end_iteration(self, *, counts: bool) -> None:
        """Note that an iteration ends, and that the next one begins.

        Args:
            counts: Whether its times count.
        """
        for cause, seconds in self.seconds.items() if counts else ():
            self.counted[cause] += seconds
        self.seconds.clear()


@dataclass(frozen=True)
class _Lane:
    """What one thread needs to exchange rows: a connection to the other trainers, buffers and a stopwatch."""

    peers: Peers
    watch: Stopwatch
    outgoing: RowBuffer
    incoming: RowBuffer


@dataclass
class OpenIteration:
    """The state of an iteration between its parts.

    Args:
        placed: The plan of the iteration, and its arrays on the device.
        leaving_buffer: Holds `leaving` from `start` to the `finish` of the next iteration.
        leaving: Room for the rows that are written back, float32, shape (n, row_width), in `write_back_slots` order.
            `start` fills in the forced evictions, `finish` the other rows.
        rows_buffer: Holds `rows` from `start` to `finish`.
        rows: Room for the rows that this trainer owns and uses, then for the replicas, in the format of the wire,
            float32 or int16, shape (plan.num_own + number of replicas, row_dim). Replicas land in its exposed part.

    `apply` of the iteration before may set `critical_pushes`: these are under way. `gather` fills `gradient_sum`: the
    row gradients of all blocks, float32, shape (n, row_dim). `apply` sets the other fields:

    - `own_gradients`: gradients of owned rows, float32, shape (num_own, row_dim).
    - `replica_gradients`: in the format of the wire, float32 or int16, shape (number of replicas, row_dim). Peers get
      its exposed part, which is complete after `gradients_arrival`.
    - `gradient_buffers`: hold both until `finish`. Empty: they are in torch's memory.

    Between the streams of the threads: `started` is a mark behind `start`, `computed` one behind `apply` or, if the
    iteration is read-only, behind its last block.
    """

    placed: PlacedIteration
    leaving_buffer: RowBuffer
    leaving: Mirror
    rows_buffer: RowBuffer
    rows: Mirror
    started: Mark = None
    computed: Mark = None
    critical_pushes: Swap | None = field(init=False, default=None)
    gradient_sum: TreeAccumulator = field(init=False, default_factory=TreeAccumulator)
    own_gradients: Mirror = field(init=False)
    replica_gradients: Mirror = field(init=False)
    gradients_arrival: Arrival = ARRIVED
    gradient_buffers: list[RowBuffer] = field(default_factory=list)

    @property
    def plan(self) -> TrainerPlan:
        """The plan of the iteration."""
        return self.placed.plan


class TrainingStep:
    """Plays plans on the rows of one trainer.

    `is_overlapped` says whether `finish` and `start` may run while the iteration between them computes. `placer` brings
    the arrays of iterations to the device.

    Args:
        trainer_rank: The rank of this trainer among the trainers.
        model: Maps (dense, embedded) to logits.
        forward: Does the same in training, as training.execution says. None: the model itself.
        row_dim: The number of columns of a row that are trained.
        pooling: Makes the vectors of samples from rows.
        objective: The losses of the labels.
        table_names: The name of each table.
        cache: The rows that this trainer owns.
        row_optimizer: Updates rows.
        dense_optimizer: Updates the parameters of the model.
        dense_gradients: Sums the gradients of dense parameters.
        blocks: The blocks of samples that this trainer computes.
        seed_of_block: Returns the seed of the random numbers of a block, from the number of training iterations before
            and the number of the block. None: all random numbers of this trainer are one sequence.
        in_bfloat16: Whether the model computes in bfloat16 wherever torch.autocast regards that as safe.
        peers: Exchanges rows with the other trainers in `gather` and `apply`.
        delayed_peers: Exchanges them in `start` and `finish`. None: nothing is early or delayed.
        wire: The format of rows and gradients between trainers.
        stopwatch: Gets the time of `gather`, `predict` and `apply`.
        delayed_stopwatch: Gets the time of `start` and `finish`.
    """

    def __init__(
        self,
        *,
        trainer_rank: int,
        model: torch.nn.Module,
        forward: Forward | None = None,
        row_dim: int,
        pooling: Pooling,
        objective: Objective,
        table_names: tuple[str, ...],
        cache: RowCache,
        row_optimizer: RowOptimizer,
        dense_optimizer: DenseOptimizer,
        dense_gradients: DenseGradients,
        blocks: BlockShare = ONE_BLOCK,
        seed_of_block: Callable[[int, int], int] | None = None,
        in_bfloat16: bool = False,
        peers: Peers,
        delayed_peers: Peers | None,
        wire: Wire,
        stopwatch: Stopwatch,
        delayed_stopwatch: Stopwatch,
    ) -> None:
        self.model, self._forward = model, forward or model
        self._row_dim = row_dim
        self._pooling, self._objective = pooling, objective
        self._table_names = table_names
        self._cache = cache
        self._device: Device = cache.device
        self._row_optimizer = row_optimizer
        self._dense_optimizer = dense_optimizer
        self.dense_gradients = dense_gradients
        self._wire = wire
        self._blocks, self._seed_of_block = blocks, seed_of_block
        self._precision = partial(cache.device.autocast, enabled=in_bfloat16)
        self._watch = stopwatch
        self._delayed_watch = delayed_stopwatch
        self.is_overlapped = delayed_peers is not None
        self.placer = IterationPlacer(
            cache.device, RowJob(pooling.features.layout, row_optimizer, trainer_rank, blocks.is_tree),
            row_width=cache.row_width, is_overlapped=self.is_overlapped, share=blocks,
        )  # fmt: skip
        self._lane, self._delayed_lane = (
            _Lane(to, watch, *(RowBuffer(cache.device, for_peers=True) for _ in range(2)))
            for to, watch in ((peers, stopwatch), (delayed_peers or peers, delayed_stopwatch))
        )
        self._rows, self._gradients = (BufferPool(cache.device, for_peers=True) for _ in range(2))
        self._leaving = BufferPool(cache.device)
        self._drained: RowBuffer | None = None  # has the rows that the latest `finish` returned
        self._delayed: Mark = None  # behind the latest `start` or `finish`

    def exchanged_bytes(self, plan: TrainerPlan) -> int:
        """Return how many bytes of pushed rows and of gradients this trainer sends to the others in an iteration."""
        num_rows = len(plan.push_index) + (0 if plan.read_only else int(plan.replica_counts.sum()))
        return num_rows * self._row_dim * self._wire.array_dtype.itemsize

    @property
    def cache(self) -> RowCache:
        """The rows that this trainer owns."""
        return self._cache

    @property
    def dense_optimizer(self) -> torch.optim.Optimizer:
        """The torch optimizer of the model's parameters."""
        return self._dense_optimizer.torch_optimizer

    def start(self, placed: PlacedIteration) -> OpenIteration:
        """Start an iteration: insert its fetched rows and push the rows that the iteration before does not update.

        Args:
            placed: The plan of the iteration, and its arrays on the device.
        Communication: with the other trainers, as counted in the plan.
        """
        with self._delayed_watch.time("insert"):
            self._device.wait(self._delayed)
            self._device.wait(placed.placed)
            iteration, lists = self._open(placed), placed.leaving
            self._cache.copy_to(lists.forced_slots, iteration.leaving.device, lists.forced_places)  # 1
            self._cache.insert(placed.fetch_slots, placed.fetched)  # 2
        if self.is_overlapped:
            with self._delayed_watch.time("early_pushes"):
                pushes = placed.early_pushes
                self._begin_pushes(iteration, EARLY_PUSHES, pushes, self._delayed_lane).finish()  # 3
        iteration.started = self._delayed = self._device.mark()
        return iteration

    def _open(self, placed: PlacedIteration) -> OpenIteration:
        plan = placed.plan
        leaving, rows = self._leaving.take(), self._rows.take()
        return OpenIteration(
            placed,
            leaving,
            leaving.rows(len(plan.write_back_slots), self._cache.row_width),
            rows,
            rows.rows(plan.num_own + len(placed.replicated), self._row_dim, self._wire.array_dtype),
        )

    def gather(self, iteration: OpenIteration) -> Iterator[TrainerBatch]:
        """Yield the samples with all their rows, block by block. There is one block unless the settings say otherwise.

        The caller steps on each batch, or, in a read-only iteration, passes it to `predict`, before it asks for the
        next one.

        Raises:
            OwnModelError: the caller has made no step on a batch.
        Communication: with the other trainers, as counted in the plan.
        """
        placed = iteration.placed
        with self._watch.time("exchange"):
            pushes = iteration.critical_pushes or self._begin_critical_pushes(iteration)  # 4
            pushes.finish()
        with self._watch.time("cache"):
            rows = self._all_rows(iteration)
        for number, samples in enumerate(placed.samples):
            with self._watch.time("compute"):
                batch = self._batch(placed.plan, samples, rows, number)
            yield batch
            if not placed.plan.read_only:
                iteration.gradient_sum.add(row_gradients(batch))
                self.dense_gradients.end_block()
        iteration.computed = self._device.mark()

    def _batch(self, plan: TrainerPlan, samples: PlacedSamples, rows: SampleRows, number: int) -> TrainerBatch:
        """Return the samples of one of this trainer's blocks."""
        self._dense_optimizer.zero_grad()
        if self._seed_of_block is not None:
            torch.manual_seed(self._seed_of_block(plan.num_trained, self._blocks.first + number))
        kernels = self._device.kernels
        leaf = kernels.leaf(rows).detach().requires_grad_(not plan.read_only)  # its gradients are those of this block
        return TrainerBatch(
            plan,
            samples=samples,
            objective=self._objective,
            embedded=kernels.pool(self._pooling, samples, rows, leaf),
            sequences=kernels.sequences(self._pooling, samples, rows, leaf),
            items=self._pooling.items(samples),
            rows=leaf,
            table_names=self._table_names,
            model=self.model,
            forward=self.model if plan.read_only else self._forward,
            precision=self._precision,
            before_backward=partial(self.dense_gradients.start, is_last=number == self._blocks.count - 1),
        )

    def _all_rows(self, iteration: OpenIteration) -> SampleRows:
        """Return the rows of own samples: own rows, then replicas, on the device."""
        rows = iteration.rows
        rows.up(iteration.plan.num_own)
        return self._cache.gather(iteration.placed.own_slots, rows.device, self._wire)

    def predict(self, batch: TrainerBatch) -> Float32Array:
        """Return the logits of a share, float32, shape (num_samples,). Communication: none."""
        if len(batch) == 0:  # the user's own model may fail without samples
            return np.empty(0, np.float32)
        with self._watch.time("compute"), _evaluation_mode(self.model, self._device):
            logits: Float32Array = self._device.get(batch.logits())
        return logits

    def apply(self, iteration: OpenIteration, following: Callable[[], OpenIteration | None] = _nothing) -> Loss:
        """Update, after all blocks, the rows that the next iteration uses and the dense parameters.

        Args:
            iteration: The iteration.
            following: Returns the next iteration if it has started; its critical pushes then run while dense gradients
                are summed.
        Returns:
            A function that returns the loss over the global batch. If results of the device come late, it waits for it.
        Communication: with the other trainers, as counted in the plan; the sum of dense gradients is collective over
            the trainers.
        """
        plan = iteration.plan
        scale = gradient_scale(plan.num_global_samples)
        gradients = self._wire.pack(iteration.gradient_sum.total(), scale)
        iteration.replica_gradients = self._keep(iteration, gradients[plan.num_own :])
        iteration.gradients_arrival = iteration.replica_gradients.down()
        iteration.own_gradients = self._keep(iteration, self._wire.unpack(gradients[: plan.num_own], scale))
        critical = CRITICAL_GRADIENTS if self.is_overlapped else EVERYTHING
        self._reduce(iteration, critical, iteration.placed.critical, self._lane, "exchange")  # 6, 7
        if self.is_overlapped and (next_iteration := following()) is not None:
            with self._watch.time("exchange"):
                next_iteration.critical_pushes = self._begin_critical_pushes(next_iteration)
        with self._watch.time("dense"):  # 8
            loss = self.dense_gradients.finish()
            self._dense_optimizer.step(plan.num_trained_after)
        iteration.computed = self._device.mark()
        return loss

    def _keep(self, iteration: OpenIteration, gradients: torch.Tensor) -> Mirror:
        """Return gradients in memory that lasts until `finish`, where another stream may read them."""

        def room(num_rows: int, columns: int, dtype: DTypeLike) -> Mirror:
            iteration.gradient_buffers.append(self._gradients.take())
            return iteration.gradient_buffers[-1].rows(num_rows, columns, dtype)

        return self._device.keep(gradients, room)

    def finish(self, iteration: OpenIteration) -> Float32Array:
        """Finish an iteration: update the other rows and read the rows that leave the cache.

        Returns:
            The rows to write back, float32, shape (n, row_width), in `write_back_slots` order. They are valid until the
            next call.
        Communication: with the other trainers, as counted in the plan.
        """
        placed = iteration.placed
        self._device.wait(self._delayed)
        self._device.wait(iteration.computed)
        if self.is_overlapped and not placed.plan.read_only:
            part = DELAYED_GRADIENTS
            self._reduce(iteration, part, placed.delayed, self._delayed_lane, "delayed_gradients")  # 9
        with self._delayed_watch.time("drain"):  # 10
            leaving, lists = iteration.leaving, placed.leaving
            if len(lists.forced_slots):  # fetched rows have these slots now
                self._cache.copy_to(lists.other_slots, leaving.device, lists.other_places)
            else:
                self._cache.copy(lists.other_slots, leaving.device)
            arrival = leaving.down()
            self._delayed = self._device.mark()
            arrival.wait()
        self.placer.release(placed, self._delayed)
        self._release(iteration)
        rows: Float32Array = leaving.host
        return rows

    def _release(self, iteration: OpenIteration) -> None:
        """Give the buffers of an iteration back that is over; that of the rows which leave after the next one is."""
        iteration.rows.release()
        for buffer in iteration.gradient_buffers:
            self._gradients.give_back(buffer, self._delayed)
        self._rows.give_back(iteration.rows_buffer, self._delayed)
        if self._drained is not None:
            self._leaving.give_back(self._drained, self._delayed)
        self._drained = iteration.leaving_buffer

    def _begin_critical_pushes(self, iteration: OpenIteration) -> Swap:
        self._device.wait(iteration.started)
        part = CRITICAL_PUSHES if self.is_overlapped else EVERYTHING
        return self._begin_pushes(iteration, part, iteration.placed.critical_pushes, self._lane)

    def _begin_pushes(self, iteration: OpenIteration, part: Part, pushes: PlacedPushes, lane: _Lane) -> Swap:
        """Begin to send owned rows to the trainers that use them, and to receive replicas of the same part."""
        rows = lane.outgoing.rows(len(pushes.slots), self._row_dim, self._wire.array_dtype)
        self._cache.copy(pushes.slots, rows.device, self._wire)
        arrival = rows.down()
        replicas = iteration.placed.replicated.runs(part, iteration.rows.exposed[iteration.plan.num_own :])
        arrival.wait()
        return lane.peers.begin(blocks_by_rank(rows.exposed, pushes.counts), replicas)

    def _reduce(self, iteration: OpenIteration, part: Part, updates: PlacedUpdates, lane: _Lane, cause: str) -> None:
        """Send the gradients of replicas of a part to the owners; then update owned rows.

        Args:
            iteration: The iteration.
            part: Replicas and pushed rows of this part get their gradients.
            updates: The owned rows to update.
            lane: What the calling thread exchanges rows with.
            cause: The cause that the time of the exchange is added to.
        """
        placed = iteration.placed
        with lane.watch.time(cause):
            iteration.gradients_arrival.wait()
            if len(part) == 1:
                outgoing: Blocks = placed.replicated.runs(part, iteration.replica_gradients.exposed)
            else:
                mine = lane.outgoing.rows(len(placed.delayed_replicas), self._row_dim, self._wire.array_dtype)
                self._device.pick(iteration.replica_gradients, placed.delayed_replicas, mine).wait()
                outgoing = blocks_by_rank(mine.exposed, placed.replicated.counts(part))
            num_gradients = int(updates.lists.starts[-1])
            gradients = lane.incoming.rows(num_gradients, self._row_dim, self._wire.array_dtype)
            lane.peers.begin(outgoing, blocks_by_rank(gradients.exposed, updates.counts)).finish()
        with lane.watch.time("update"):
            if len(updates.lists.slots):
                gradients.up()
                own = iteration.own_gradients.device
                self._device.launch(self._update, iteration.plan, updates.lists, own, gradients.device)
                gradients.release()

    def _update(self, plan: TrainerPlan, lists: UpdateLists, own: DeviceArray, arrived: DeviceArray) -> None:
        """Sum the gradients of owned rows, and make one step on them.

        Args:
            plan: The plan of the iteration.
            lists: The rows, and which gradients are theirs.
            own: Gradients of own samples, float32, shape (num_own, row_dim).
            arrived: From the other trainers, in the format of the wire, float32 or int16, shape (m, row_dim).
        """
        self._cache.update(
            lists, own, arrived, self._row_optimizer, plan.num_trained_after, in_tree=self._blocks.is_tree,
            wire=self._wire, scale=gradient_scale(plan.num_global_samples),
        )  # fmt: skip


@contextmanager
def _evaluation_mode(model: torch.nn.Module, device: Device) -> Iterator[None]:
    """Keep the model in evaluation mode inside the block, and let torch record no gradients.

    When the block ends, every module gets its former mode back, and the random number generators of torch get their
    former state back. So predictions do not change the training.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), device.keeping_random_numbers():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
