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
              10  drain evictions                cache, forced rows -> a host buffer; trainer.py puts it into the stages

If iterations overlap, `finish` of i - 1 and then `start` of i + 1 run while i computes, in their own thread and on
their own communicator. That is safe, because the planner does not reuse a slot or a row too soon
(lookahead/residency.py): i uses none of the slots that `start` of i + 1 fills, and none of the rows that it copies. i
updates none of the rows that it pushes early: they got their last update in the `finish` before it, or earlier. If
iterations do not overlap, nothing is early or delayed (paper section 3.3).

Read-only iterations (evaluation) have no gradients, so they skip 6 to 9.
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
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.buffers import BufferPool, HostBuffer, HostMemory
from bagpipe_hpc.trainer.cache import RowCache, in_own_memory, to_device, to_host
from bagpipe_hpc.trainer.dense_optimizer import DenseOptimizer
from bagpipe_hpc.trainer.gray_blocks import (
    CRITICAL_GRADIENTS,
    CRITICAL_PUSHES,
    DELAYED_GRADIENTS,
    EARLY_PUSHES,
    EVERYTHING,
    GrayBlocks,
    Part,
)
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.row_kernels import add_gradients, add_gradients_in_tree, copy_rows, positions_of
from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
from bagpipe_hpc.trainer.row_sums import summed_gradients
from bagpipe_hpc.trainer.sample_blocks import NO_FEATURES, ONE_BLOCK, BlockShare, FeatureKinds, blocks_of
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch, row_gradients
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator
from bagpipe_hpc.trainer.wire import Wire, WireArray, gradient_scale
from bagpipe_hpc.transport.blocks import blocks_by_rank

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
Blocks = Iterable[tuple[int, WireArray]]


class Swap(Protocol):
    """Blocks on their way, as the step needs them."""

    def finish(self) -> None:
        """Wait until all blocks have left and arrived. Communication: complete on return."""


class Peers(Protocol):
    """The exchange between trainers, as the step needs it."""

    def begin(self, outgoing: Blocks, incoming: Blocks) -> Swap:
        """Begin to send blocks of rows to other trainers and to receive blocks from others; see transport/peers.py.

        Args:
            outgoing: Trainers and their blocks, float32 or int16, shape (n, row_dim), C-contiguous.
            incoming: Trainers, and arrays that get the blocks that they send, of the same dtype.
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

    def finish(self) -> float:
        """Return the summed loss. On return every gradient is the sum over the trainers."""


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
    outgoing: HostBuffer
    incoming: HostBuffer


@dataclass
class OpenIteration:
    """The state of an iteration between its parts.

    Args:
        plan: The plan of the iteration.
        forced_rows: Copies of the rows of forced evictions, float32, shape (n, row_width), in `write_back_slots` order.
        pushed: The rows that this trainer pushes, which are the elements of plan.push_index.
        replicated: The replicas that this trainer receives.
        critical_updates: Positions in plan.update_slots of the rows that `apply` updates, int64, ascending.
        delayed_updates: The same for `finish`.
        rows_buffer: Holds `rows` from `start` to `finish`.
        rows: Room for the rows that this trainer owns and uses, then for the replicas, in the format of the wire,
            float32 or int16, shape (plan.num_own + len(replicated), row_dim).

    `apply` of the iteration before may set `critical_pushes`: these are under way. `gather` fills `gradient_sum`: the
    row gradients of all blocks, float32, shape (n, row_dim). `apply` sets the other fields:

    - `own_gradients`: gradients of owned rows, float32, shape (num_own, row_dim).
    - `gradients_buffer`: holds `replica_gradients` from `apply` to `finish`. None: they are in torch's memory.
    - `replica_gradients`: in the format of the wire, float32 or int16, shape (len(replicated), row_dim).
    """

    plan: TrainerPlan
    forced_rows: torch.Tensor
    pushed: GrayBlocks
    replicated: GrayBlocks
    critical_updates: Int64Array
    delayed_updates: Int64Array
    rows_buffer: HostBuffer
    rows: WireArray
    critical_pushes: Swap | None = field(init=False, default=None)
    gradient_sum: TreeAccumulator = field(init=False, default_factory=TreeAccumulator)
    own_gradients: torch.Tensor = field(init=False)
    gradients_buffer: HostBuffer | None = field(init=False, default=None)
    replica_gradients: WireArray = field(init=False)


class TrainingStep:
    """Plays plans on the rows of one trainer.

    `is_overlapped` says whether `finish` and `start` may run while the iteration between them computes.
    `memory.num_allocations` is the number of communication buffers that were allocated.

    Args:
        trainer_rank: The rank of this trainer among the trainers.
        model: Maps (dense, embedded) to logits.
        row_dim: The number of columns of a row that are trained.
        pooling: Makes the vectors of samples from rows.
        table_names: The name of each table.
        cache: The rows that this trainer owns.
        row_optimizer: Updates rows.
        dense_optimizer: Updates the parameters of the model.
        dense_gradients: Sums the gradients of dense parameters.
        blocks: The blocks of samples that this trainer computes.
        feature_kinds: The features of a sample.
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
        row_dim: int,
        pooling: Pooling,
        table_names: tuple[str, ...],
        cache: RowCache,
        row_optimizer: RowOptimizer,
        dense_optimizer: DenseOptimizer,
        dense_gradients: DenseGradients,
        blocks: BlockShare = ONE_BLOCK,
        feature_kinds: FeatureKinds = NO_FEATURES,
        seed_of_block: Callable[[int, int], int] | None = None,
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
        self._blocks, self._feature_kinds, self._seed_of_block = blocks, feature_kinds, seed_of_block
        self._in_bfloat16 = in_bfloat16
        self._watch = stopwatch
        self._delayed_watch = delayed_stopwatch
        self.is_overlapped = delayed_peers is not None
        self.memory = HostMemory(cache.device)
        self._lane, self._delayed_lane = (
            _Lane(to, watch, HostBuffer(self.memory), HostBuffer(self.memory))
            for to, watch in ((peers, stopwatch), (delayed_peers or peers, delayed_stopwatch))
        )
        self._rows, self._gradients = BufferPool(self.memory), BufferPool(self.memory)
        self._leaving = HostBuffer(self.memory)

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

    def start(self, plan: TrainerPlan, fetched: Float32Array) -> OpenIteration:
        """Start an iteration: insert its fetched rows and push the rows that the iteration before does not update.

        Args:
            plan: The plan of the iteration.
            fetched: Fetched rows in `fetch_slots` order, float32, shape (n, row_width).
        Communication: with the other trainers, as counted in the plan.
        """
        with self._delayed_watch.time("insert"):
            forced_rows = self._cache.read(plan.write_back_slots[_forced_mask(plan)])  # 1
            self._cache.write(plan.fetch_slots, to_device(fetched, self._cache.device))  # 2
            iteration = self._open(plan, forced_rows)
        if self.is_overlapped:
            with self._delayed_watch.time("early_pushes"):
                self._begin_pushes(iteration, EARLY_PUSHES, self._delayed_lane).finish()  # 3
        return iteration

    def _open(self, plan: TrainerPlan, forced_rows: torch.Tensor) -> OpenIteration:
        pushed, replicated = GrayBlocks(plan.push_counts), GrayBlocks(plan.replica_counts)
        delayed = np.zeros(len(plan.update_slots), dtype=np.bool_)
        if self.is_overlapped:
            delayed[plan.push_index[positions_of(pushed.edges, DELAYED_GRADIENTS)]] = True
        buffer = self._rows.take()
        rows = buffer.rows(plan.num_own + len(replicated), self._row_dim, self._wire.array_dtype)
        updates = np.flatnonzero(~delayed), np.flatnonzero(delayed)
        return OpenIteration(plan, forced_rows, pushed, replicated, *updates, buffer, rows)

    def gather(self, iteration: OpenIteration) -> Iterator[TrainerBatch]:
        """Yield the samples with all their rows, block by block. There is one block unless the settings say otherwise.

        The caller steps on each batch, or, in a read-only iteration, passes it to `predict`, before it asks for the
        next one.

        Raises:
            OwnModelError: the caller has made no step on a batch.
        Communication: with the other trainers, as counted in the plan.
        """
        plan = iteration.plan
        with self._watch.time("exchange"):
            pushes = iteration.critical_pushes or self._begin_critical_pushes(iteration)  # 4
            pushes.finish()
        with self._watch.time("cache"):
            rows = self._all_rows(iteration)
        for number, block in enumerate(blocks_of(plan, self._blocks, self._feature_kinds)):
            with self._watch.time("compute"):
                batch = self._batch(block, rows, number)
            yield batch
            if not plan.read_only:
                iteration.gradient_sum.add(row_gradients(batch))
                self.dense_gradients.end_block()

    def _batch(self, block: TrainerPlan, rows: torch.Tensor, number: int) -> TrainerBatch:
        """Return the samples of one of this trainer's blocks."""
        self._dense_optimizer.zero_grad()
        if self._seed_of_block is not None:
            torch.manual_seed(self._seed_of_block(block.num_trained, self._blocks.first + number))
        leaf = rows.detach().requires_grad_(not block.read_only)  # its gradients are those of this block
        return TrainerBatch(
            block,
            dense=in_own_memory(block.dense, rows.device),
            embedded=self._pooling(block, leaf),
            rows=leaf,
            table_names=self._table_names,
            model=self.model,
            in_bfloat16=self._in_bfloat16,
            before_backward=partial(self.dense_gradients.start, is_last=number == self._blocks.count - 1),
        )

    def _all_rows(self, iteration: OpenIteration) -> torch.Tensor:
        """Return the rows of own samples: own rows, then replicas, float32, shape (n, row_dim), on the device."""
        num_own, device = iteration.plan.num_own, self._cache.device
        slots = iteration.plan.update_slots[:num_own]
        if self._wire.is_exact and device.type == "cpu":
            self._cache.copy_to(slots, iteration.rows[:num_own])
            return torch.from_numpy(iteration.rows)  # a later iteration reuses this memory, so pooling must copy rows
        own = self._wire.pack(self._cache.read(slots)[:, : self._row_dim])
        return self._wire.unpack(torch.cat([own, to_device(iteration.rows[num_own:], device)]))

    def predict(self, batch: TrainerBatch) -> Float32Array:
        """Return the logits of a share, float32, shape (num_samples,). Communication: none."""
        if len(batch) == 0:  # the user's own model may fail without samples
            return np.empty(0, np.float32)
        with self._watch.time("compute"), _evaluation_mode(self.model, self._cache.device):
            return to_host(batch.logits())

    def apply(self, iteration: OpenIteration, following: Callable[[], OpenIteration | None] = _nothing) -> float:
        """Update, after all blocks, the rows that the next iteration uses and the dense parameters.

        Args:
            iteration: The iteration.
            following: Returns the next iteration if it has started; its critical pushes then run while dense gradients
                are summed.
        Returns:
            The loss over the global batch.
        Communication: with the other trainers, as counted in the plan; the sum of dense gradients is collective over
            the trainers.
        """
        plan = iteration.plan
        scale = gradient_scale(plan.num_global_samples)
        gradients = self._wire.pack(iteration.gradient_sum.total(), scale)
        iteration.own_gradients = self._wire.unpack(gradients[: plan.num_own], scale)
        if gradients.device.type == "cpu":
            iteration.replica_gradients = to_host(gradients[plan.num_own :])
        else:
            iteration.gradients_buffer = self._gradients.take()
            iteration.replica_gradients = iteration.gradients_buffer.fill(gradients[plan.num_own :])
        critical = CRITICAL_GRADIENTS if self.is_overlapped else EVERYTHING
        self._reduce(iteration, critical, iteration.critical_updates, self._lane, "exchange")  # 6, 7
        if self.is_overlapped and (next_iteration := following()) is not None:
            with self._watch.time("exchange"):
                next_iteration.critical_pushes = self._begin_critical_pushes(next_iteration)
        with self._watch.time("dense"):  # 8
            loss = self.dense_gradients.finish()
            self._dense_optimizer.step(plan.num_trained_after)
        return loss

    def finish(self, iteration: OpenIteration) -> Float32Array:
        """Finish an iteration: update the other rows and read the rows that leave the cache.

        Returns:
            The rows to write back, float32, shape (n, row_width), in `write_back_slots` order. They are valid until the
            next call.
        Communication: with the other trainers, as counted in the plan.
        """
        plan = iteration.plan
        if not plan.read_only:
            if self.is_overlapped:
                updates = iteration.delayed_updates
                self._reduce(iteration, DELAYED_GRADIENTS, updates, self._delayed_lane, "delayed_gradients")  # 9
            if iteration.gradients_buffer:
                self._gradients.give_back(iteration.gradients_buffer)
        self._rows.give_back(iteration.rows_buffer)
        with self._delayed_watch.time("drain"):  # 10
            leaving = self._cache.read(plan.write_back_slots)
            if len(iteration.forced_rows):  # fetched rows have these slots now
                leaving[torch.from_numpy(_forced_mask(plan))] = iteration.forced_rows
            return self._leaving.fill(leaving)

    def _begin_critical_pushes(self, iteration: OpenIteration) -> Swap:
        return self._begin_pushes(iteration, CRITICAL_PUSHES if self.is_overlapped else EVERYTHING, self._lane)

    def _begin_pushes(self, iteration: OpenIteration, part: Part, lane: _Lane) -> Swap:
        """Begin to send owned rows of a part to the trainers that use them, and to receive replicas of this part."""
        plan = iteration.plan
        slots = plan.update_slots[plan.push_index[positions_of(iteration.pushed.edges, part)]]
        if self._wire.is_exact:
            rows = lane.outgoing.rows(len(slots), self._row_dim)
            self._cache.copy_to(slots, rows)
        else:
            rows = lane.outgoing.fill(self._wire.pack(self._cache.read(slots)[:, : self._row_dim]))
        replicas = iteration.replicated.runs(part, iteration.rows[plan.num_own :])
        return lane.peers.begin(blocks_by_rank(rows, iteration.pushed.counts(part)), replicas)

    def _reduce(self, iteration: OpenIteration, part: Part, updates: Int64Array, lane: _Lane, cause: str) -> None:
        """Send the gradients of replicas of a part to the owners; then update owned rows.

        Args:
            iteration: The iteration.
            part: Replicas and pushed rows of this part get their gradients.
            updates: Positions in update_slots of the owned rows to update, int64, shape (n,), ascending.
            lane: What the calling thread exchanges rows with.
            cause: The cause that the time of the exchange is added to.
        """
        with lane.watch.time(cause):
            if len(part) == 1:
                outgoing: Blocks = iteration.replicated.runs(part, iteration.replica_gradients)
            else:
                positions = positions_of(iteration.replicated.edges, part)
                mine = lane.outgoing.rows(len(positions), self._row_dim, self._wire.array_dtype)
                copy_rows(iteration.replica_gradients, positions, mine)
                outgoing = blocks_by_rank(mine, iteration.replicated.counts(part))
            counts = iteration.pushed.counts(part)
            gradients = lane.incoming.rows(int(counts.sum()), self._row_dim, self._wire.array_dtype)
            lane.peers.begin(outgoing, blocks_by_rank(gradients, counts)).finish()
        with lane.watch.time("update"):
            if len(updates):
                slots = iteration.plan.update_slots[updates]
                rows = self._cache.read(slots)
                sums = self._sum(iteration, part, updates, gradients)
                self._row_optimizer.step(rows, sums, iteration.plan.num_trained_after)
                self._cache.write(slots, rows)

    def _sum(self, iteration: OpenIteration, part: Part, updates: Int64Array, gradients: WireArray) -> torch.Tensor:
        """Sum the gradients of owned rows in ascending trainer order or, with blocks, in that of a tree.

        Args:
            iteration: Has the plan and the gradients of own samples.
            part: The part that the gradients are of.
            updates: Positions in update_slots of the rows, int64, shape (n,), ascending.
            gradients: From the other trainers, in the format of the wire, float32 or int16, shape (m, row_dim).
        Returns:
            float32, shape (n, row_dim), on the device.
        """
        plan, device = iteration.plan, self._cache.device
        arrived = self._wire.unpack(to_device(gradients, device), gradient_scale(plan.num_global_samples))
        num_updates, in_tree = len(plan.update_slots), self._blocks.is_tree
        if device.type != "cpu":
            return summed_gradients(
                updates, iteration.own_gradients, self._rank, plan.push_index, iteration.pushed, part, arrived,
                num_updates, in_tree=in_tree,
            )  # fmt: skip
        sums = torch.zeros((len(updates), self._row_dim))
        add = add_gradients_in_tree if in_tree else add_gradients
        add(
            sums.numpy(), updates, to_host(iteration.own_gradients), self._rank, plan.push_index,
            iteration.pushed.edges, part, arrived.numpy(), num_updates,
        )  # fmt: skip
        return sums


@contextmanager
def _evaluation_mode(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Keep the model in evaluation mode inside the block, and let torch record no gradients.

    When the block ends, every module gets its former mode back, and the random number generators of torch get their
    former state back. So predictions do not change the training.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _forced_mask(plan: TrainerPlan) -> NDArray[np.bool_]:
    """Return which write-backs are forced evictions: the first `forced_counts` in the block of each server.

    Returns:
        bool, shape (len(write_back_slots),).
    """
    mask = np.zeros(len(plan.write_back_slots), dtype=np.bool_)
    start = 0
    for count, forced in zip(plan.write_back_counts.tolist(), plan.forced_counts.tolist(), strict=True):
        mask[start : start + forced] = True
        start += count
    return mask
