"""From shards to plan messages: the oracle's chain of work, a pipeline of threads that share `oracle.threads` cores.

    read batch       shards -> batches: decompression, checks
    place samples    which sample goes to which trainer; only with `oracle.placement: locality`
    enter batch      the next-use pass, over groups of tables
    plan             owners, slots, evictions, lists
    encode           one message per rank

Every stage may be a few batches ahead of the next; plan i is made when batch i + L has entered. No MPI here.

A *boundary* is where the job may stop and go on later: what the caches hold there, and how the samples of batches that
were placed already stand. It is taken when the plan before it is made, so that no stage waits for another.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.batch import Batch
from bagpipe_hpc.data.dataset import Dataset, Split
from bagpipe_hpc.data.shuffle import BlockShuffle, shuffled_batches
from bagpipe_hpc.lookahead.codec import PlanMessages, encode_plan
from bagpipe_hpc.lookahead.pipeline import Cores, Pipeline
from bagpipe_hpc.lookahead.placement import LocalityPlacement, PlacementState
from bagpipe_hpc.lookahead.plan import Int32Array, IterationPlan
from bagpipe_hpc.lookahead.planner import BATCHES_AHEAD, Planner, SampleBatch
from bagpipe_hpc.lookahead.residents import Residents
from bagpipe_hpc.lookahead.warm_up import warm_up
from bagpipe_hpc.roles.course import Course
from bagpipe_hpc.sharding import KeySpace, share_boundaries


@dataclass(frozen=True)
class Placed:
    """How samples are placed: what batches to come depend on, and the order of those placed already."""

    state: PlacementState
    orders: tuple[Int32Array, ...]


@dataclass(frozen=True)
class Boundary:
    """Between an iteration and the next.

    Args:
        iteration: The one before it.
        residents: What the caches hold.
        placed: Of the batches to come; None where samples stay in order.
        is_stop: Whether no plan follows, because the stream was stopped.
    """

    iteration: int
    residents: Residents
    placed: Placed | None
    is_stop: bool = False


@dataclass(frozen=True)
class EncodedPlan:
    """One iteration's plan and its messages; the boundary behind it, if there is to be one."""

    plan: IterationPlan
    messages: PlanMessages
    boundary: Boundary | None


class PlanStream:
    """Plans of all batches of a job.

    Args:
        config: All settings.
        num_embeddings: Rows of each table.
        num_trainers: T.
        num_servers: S.
        cache_rows: Slots per trainer.
        num_batches: Batches of the whole stream: no window is larger.
        is_boundary: Whether the job may stop after a plan. Called by a thread of its own.
        first_iteration: Number of the first batch.
        before: The boundary that the first batch follows; None: the job starts there with empty caches.
    """

    def __init__(
        self,
        config: Config,
        num_embeddings: tuple[int, ...],
        *,
        num_trainers: int,
        num_servers: int,
        cache_rows: int,
        num_batches: int,
        is_boundary: Callable[[IterationPlan], bool] = lambda plan: False,
        first_iteration: int = 0,
        before: Boundary | None = None,
    ) -> None:
        cores = Cores(config.oracle.threads)
        self._pipeline = Pipeline(cores, BATCHES_AHEAD, first_iteration)
        self._window = max(config.prefetch_depth, min(config.window, num_batches))
        self._planner = Planner(
            num_embeddings=num_embeddings,
            num_trainers=num_trainers,
            num_servers=num_servers,
            window=self._window,
            prefetch_depth=config.prefetch_depth,
            cache_rows=cache_rows,
            max_dense_keys=config.oracle.max_dense_keys,
            cores=cores,
            first_iteration=first_iteration,
            residents=before.residents if before else None,
        )
        self._placement: _Placement | None = None
        if config.oracle.placement == "locality" and num_trainers > 1:
            placement = LocalityPlacement(num_trainers, KeySpace(num_embeddings).table_offsets)
            self._placement = _Placement(placement, before.placed if before else None)
        self._is_boundary = is_boundary
        self._stop = threading.Event()
        self._is_stopped = False

    @property
    def seconds(self) -> dict[str, float]:
        """Time that each stage has worked so far."""
        return dict(self._pipeline.seconds)

    def stop(self) -> None:
        """Make the plan that is due next the last one, with a boundary behind it."""
        self._stop.set()

    @property
    def key_state_bytes(self) -> int:
        """Memory of the planner's state per key, touched or not."""
        return self._planner.key_state_bytes

    def plans(self, batches: Iterator[SampleBatch]) -> Iterator[EncodedPlan]:
        """Plans of all batches, in order.

        Raises:
            CacheTooSmallError: as the planner.
            DatasetError: a batch cannot be read.
        """
        pipeline = self._pipeline
        placed = read = pipeline.source("read batch", itertools.takewhile(lambda _: not self._is_stopped, batches))
        if self._placement is not None:
            placed = pipeline.stage("place samples", self._place, read)
        due = pipeline.stage("enter batch", self._enter, placed, at_end=self._still_due)
        plans = pipeline.stage("plan", self._plan, due)
        return pipeline.stage("encode", lambda plan: [EncodedPlan(plan[0], encode_plan(plan[0]), plan[1])], plans)

    def _place(self, batch: SampleBatch) -> Iterable[SampleBatch]:
        assert self._placement is not None
        order = self._placement.order(batch)
        yield replace(batch, ids=batch.ids[order], labels=batch.labels[order], dense=batch.dense[order])

    def _enter(self, batch: SampleBatch) -> Iterable[None]:
        """As many items as plans are due."""
        return [None] if self._planner.enter(batch) else []

    def _plan(self, _: None) -> Iterable[tuple[IterationPlan, Boundary | None]]:
        if self._is_stopped:
            return
        plan = self._planner.emit()
        if self._placement is not None:
            self._placement.forget_first()
        self._is_stopped = self._stop.is_set()
        boundary = None
        if self._is_stopped or self._is_boundary(plan):
            placed = self._placement.placed() if self._placement is not None else None
            boundary = Boundary(plan.iteration, self._planner.residents(), placed, self._is_stopped)
        yield plan, boundary

    def _still_due(self) -> Iterable[None]:
        return [None] * min(self._window, self._planner.num_entered)


class _Placement:
    """Locality placement that can tell, at any boundary, how it goes on. Two threads share it."""

    def __init__(self, placement: LocalityPlacement, before: Placed | None) -> None:
        self._placement = placement
        self._lock = threading.Lock()
        self._orders: deque[Int32Array] = deque()  # of batches that were placed, but not planned
        self._due: deque[Int32Array] = deque()  # of batches to come that were placed before the boundary
        if before is not None:
            placement.restore(before.state)
            self._due.extend(before.orders)

    def order(self, batch: SampleBatch) -> Int32Array:
        """Place the next batch."""
        num_samples = len(batch.labels)
        share_ends = np.asarray(share_boundaries(num_samples, self._placement.num_trainers), dtype=np.int64)
        with self._lock:
            if self._due and len(self._due[0]) != num_samples:
                self._due.clear()  # batches of another size than when they were placed
            order = self._due.popleft() if self._due else self._placement.order(batch.ids, share_ends)
            self._orders.append(order)
        return order

    def forget_first(self) -> None:
        """The first of the batches placed has its plan."""
        with self._lock:
            self._orders.popleft()

    def placed(self) -> Placed:
        """What the batches without a plan depend on."""
        with self._lock:
            return Placed(self._placement.state(), (*self._orders, *self._due))


def warm_up_planning(config: Config, num_embeddings: tuple[int, ...], num_trainers: int) -> None:
    """Compile all that a `PlanStream` will use, so that no iteration waits for it."""
    id_dtype = np.dtype(np.int32 if max(num_embeddings) < 2**31 else np.int64)
    largest_batch = max(config.training.batch_size, config.evaluation.batch_size or 0)
    largest_share = -(-largest_batch // num_trainers)
    warm_up(sum(num_embeddings), id_dtype, config.oracle.max_dense_keys, largest_share)


def count_batches(config: Config, dataset: Dataset, course: Course) -> int:
    """Batches of a course and of the evaluation after it."""
    batch_size = config.evaluation.batch_size or config.training.batch_size
    num_evaluated = dataset.split(config.evaluation.split).num_batches(batch_size) if config.evaluation.enabled else 0
    return course.end_iteration - course.start.iteration + num_evaluated


def sample_batches(config: Config, dataset: Dataset, course: Course) -> Iterator[SampleBatch]:
    """All batches of a course, epoch by epoch, then those to evaluate on, read-only."""
    start, batch_size = course.start, course.batch_size
    epochs = (
        _epoch(config, dataset.train, epoch, start.sample if epoch == start.epoch else 0)
        for epoch in range(start.epoch, course.epochs)
    )
    batches = itertools.islice(itertools.chain.from_iterable(epochs), course.end_iteration - start.iteration)
    yield from (_sample_batch(batch, read_only=False) for batch in batches)
    if config.evaluation.enabled:
        for batch in dataset.split(config.evaluation.split).batches(config.evaluation.batch_size or batch_size):
            yield _sample_batch(batch, read_only=True)


def _epoch(config: Config, train: Split, epoch: int, start_sample: int) -> Iterator[Batch]:
    training = config.training
    if training.shuffle_block is None:
        return train.batches(training.batch_size, start_sample=start_sample)
    shuffle = BlockShuffle(training.shuffle_block, training.seed)
    return shuffled_batches(train, shuffle, epoch, training.batch_size, start_sample)


def _sample_batch(batch: Batch, read_only: bool) -> SampleBatch:
    return SampleBatch(batch.ids, batch.labels, batch.dense, read_only)
