"""From shards to plan messages: the oracle's chain of work, a pipeline of threads that share `oracle.threads` cores.

    read batch       shards -> batches: decompression, checks
    assign samples   which trainer takes which sample; only with `oracle.placement: locality`
    enter batch      the next-use pass, over groups of tables
    plan             owners, slots, evictions, lists
    encode           one message per rank

Every step may be a few batches ahead of the next; plan i is made when batch i + L has entered. No MPI here.

Evaluation is read-only batches between training batches. They are numbered along, looked ahead to and cached like all
others, but their samples stay in order. So the assignment, like everything that the model depends on, sees the
training batches alone.

A *boundary* is where the job may stop and go on later: what the caches hold there, and how the samples of batches that
were assigned already stand. It is taken when the plan before it is made, so that no step waits for another.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.lookahead.locality import AssignerState, LocalityAssigner
from bagpipe_hpc.lookahead.planner import BATCHES_AHEAD, Planner
from bagpipe_hpc.lookahead.warm_up import warm_up
from bagpipe_hpc.pipeline import Cores, Pipeline
from bagpipe_hpc.protocol.codec import PlanMessages, encode_plan
from bagpipe_hpc.protocol.plan import Int32Array, IterationPlan, Residents
from bagpipe_hpc.sharding import KeySpace, share_boundaries


@dataclass(frozen=True)
class SampleAssignment:
    """How samples are assigned to trainers after a boundary.

    Args:
        state: What the batches that are not assigned yet depend on.
        orders: Of the batches that are assigned already, each int32, shape (num_samples,), see `LocalityAssigner`.
    """

    state: AssignerState
    orders: tuple[Int32Array, ...]


@dataclass(frozen=True)
class Boundary:
    """Between a plan and the next.

    Args:
        num_trained: Training iterations of the whole job before it.
        residents: What the caches hold.
        assignment: How samples of the batches to come are assigned; None where samples stay in order.
        is_stop: Whether no plan follows, because the stream was stopped.
    """

    num_trained: int
    residents: Residents
    assignment: SampleAssignment | None
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
        schema: Of the samples.
        num_trainers: T.
        num_servers: S.
        cache_rows: Slots per trainer.
        num_batches: Batches of the whole stream: no window is larger.
        is_boundary: Whether the job may stop after a plan. Called by a thread of its own.
        admits: Whether the stream goes on with a batch; may block. Called with every batch by a thread of its own.
        start: Training iterations of earlier starts of the job.
        before: The boundary that the first batch follows; None: the job starts there with empty caches.
    """

    def __init__(
        self,
        config: Config,
        schema: Schema,
        *,
        num_trainers: int,
        num_servers: int,
        cache_rows: int,
        num_batches: int,
        is_boundary: Callable[[IterationPlan], bool] = lambda plan: False,
        admits: Callable[[Batch], bool] = lambda batch: True,
        start: int = 0,
        before: Boundary | None = None,
    ) -> None:
        cores = Cores(config.oracle.threads)
        self._pipeline = Pipeline(cores, BATCHES_AHEAD, start)
        self._window = max(config.prefetch_depth, min(config.window, num_batches))
        self._planner = Planner(
            num_embeddings=schema.num_embeddings,
            features=schema.features,
            num_trainers=num_trainers,
            num_servers=num_servers,
            window=self._window,
            prefetch_depth=config.prefetch_depth,
            cache_rows=cache_rows,
            max_dense_keys=config.oracle.max_dense_keys,
            cores=cores,
            first_iteration=start,
            residents=before.residents if before else None,
        )
        self._assigner: _ResumableAssigner | None = None
        if config.oracle.placement == "locality" and num_trainers > 1:
            table_offsets = KeySpace(schema.num_embeddings).table_offsets
            rule = LocalityAssigner(num_trainers, table_offsets, schema.features)
            self._assigner = _ResumableAssigner(rule, before.assignment if before else None)
        self._is_boundary, self._admits = is_boundary, admits
        self._stop = threading.Event()
        self._is_stopped = False
        self._is_cut = False  # a batch was not admitted
        self._num_trained = start  # after the plan made last
        self.end: Boundary | None = None  # behind the last plan, once the stream has ended without being stopped

    @property
    def seconds(self) -> dict[str, float]:
        """Time that each step has worked so far."""
        return dict(self._pipeline.seconds)

    def stop(self) -> None:
        """Make the plan that is due next the last one, with a boundary behind it."""
        self._stop.set()

    @property
    def key_state_bytes(self) -> int:
        """Memory of the planner's state per key, touched or not."""
        return self._planner.key_state_bytes

    def plans(self, batches: Iterator[Batch], meanwhile: Callable[[], object] | None = None) -> Iterator[EncodedPlan]:
        """Plans of all batches, in order.

        Args:
            meanwhile: Called now and then while the caller waits for a plan.
        Raises:
            CacheTooSmallError: as the planner.
            DatasetError: a batch cannot be read.
        """
        pipeline = self._pipeline
        read = pipeline.source("read batch", itertools.takewhile(self._goes_on, batches))
        assigned = read = self._admitted(read)
        if self._assigner is not None:
            assigned = pipeline.step("assign samples", self._assign, read)
        due = pipeline.step("enter batch", self._enter, assigned, at_end=self._still_due)
        plans = pipeline.step("plan", self._plan, due, at_end=self._note_end)
        return pipeline.step("encode", _encode, plans, meanwhile=meanwhile)

    def _goes_on(self, _: Batch) -> bool:
        return not (self._is_stopped or self._is_cut)

    def _admitted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        # Between two steps, where whoever waits holds no core.
        for batch in batches:
            if not self._admits(batch):
                self._is_cut = True
                deque(batches, maxlen=0)  # those read already, so that the thread that reads comes to its end
                return
            yield batch

    def _assign(self, batch: Batch) -> Iterable[Batch]:
        assert self._assigner is not None
        yield batch if batch.read_only else batch.take(self._assigner.order(batch))

    def _enter(self, batch: Batch) -> Iterable[None]:
        """As many items as plans are due."""
        return [None] if self._planner.enter(batch) else []

    def _plan(self, _: None) -> Iterable[tuple[IterationPlan, Boundary | None]]:
        if self._is_stopped:
            return
        plan = self._planner.emit()
        if self._assigner is not None and not plan.read_only:
            self._assigner.forget_first()
        self._num_trained = plan.num_trained_after
        self._is_stopped = self._stop.is_set()
        is_boundary = self._is_stopped or self._is_boundary(plan)
        yield plan, self._boundary(self._is_stopped) if is_boundary else None

    def _boundary(self, is_stop: bool) -> Boundary:
        assignment = self._assigner.assignment() if self._assigner is not None else None
        return Boundary(self._num_trained, self._planner.residents(), assignment, is_stop)

    def _note_end(self) -> tuple[()]:
        if not self._is_stopped:
            self.end = self._boundary(self._is_cut and self._stop.is_set())
        return ()

    def _still_due(self) -> Iterable[None]:
        return [None] * min(self._window, self._planner.num_entered)


def _encode(planned: tuple[IterationPlan, Boundary | None]) -> Iterable[EncodedPlan]:
    plan, boundary = planned
    return [EncodedPlan(plan, encode_plan(plan), boundary)]


class _ResumableAssigner:
    """Assigns samples, and tells at any boundary how it goes on. Two threads share it."""

    def __init__(self, assigner: LocalityAssigner, before: SampleAssignment | None) -> None:
        self._assigner = assigner
        self._lock = threading.Lock()
        self._orders: deque[Int32Array] = deque()  # of batches that are assigned, but not planned
        self._due: deque[Int32Array] = deque()  # of batches to come that were assigned before the boundary
        if before is not None:
            assigner.restore(before.state)
            self._due.extend(before.orders)

    def order(self, batch: Batch) -> Int32Array:
        """Assign the samples of the next batch; int32, shape (num_samples,), see `LocalityAssigner.order`."""
        num_samples, bags = batch.num_samples, tuple(batch.bags.values())
        share_ends = np.asarray(share_boundaries(num_samples, self._assigner.num_trainers), dtype=np.int64)
        with self._lock:
            if self._due and len(self._due[0]) != num_samples:
                self._due.clear()  # batches of another size than when they were assigned
            order = self._due.popleft() if self._due else self._assigner.order(batch.ids, share_ends, bags)
            self._orders.append(order)
        return order

    def forget_first(self) -> None:
        """Forget the first of the assigned batches, because it has its plan."""
        with self._lock:
            self._orders.popleft()

    def assignment(self) -> SampleAssignment:
        """Return what the batches without a plan depend on."""
        with self._lock:
            return SampleAssignment(self._assigner.state(), (*self._orders, *self._due))


def warm_up_planning(config: Config, schema: Schema, num_trainers: int) -> None:
    """Compile all that a `PlanStream` will use, so that no iteration waits for it."""
    is_wide = any(table.num_embeddings >= 2**31 for table in schema.one_hot_tables)
    id_dtype = np.dtype(np.int64 if is_wide else np.int32)
    largest_batch = max(config.training.batch_size, config.evaluation.batch_size or 0)
    largest_share = -(-largest_batch // num_trainers)
    if schema.ragged_tables:
        largest_share *= 1000  # as if so many samples had one id each: no bound on the ids of a sample is known
    warm_up(sum(schema.num_embeddings), id_dtype, config.oracle.max_dense_keys, largest_share)
