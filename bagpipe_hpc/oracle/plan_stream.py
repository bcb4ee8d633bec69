"""The stream of plans: a pipeline of threads turns shards into plan messages. They share `oracle.threads` cores.

    read batch       shards -> batches: decompression, checks
    map ids          ids of dynamic tables -> rows; only if there are such tables
    assign samples   which trainer takes which sample; only with `oracle.placement: locality`
    enter batch      the next-use pass, over groups of tables
    plan             owners, slots, evictions, lists
    encode           one message per rank

Every step may be a few batches ahead of the next one. Plan i is made when batch i + L has entered. No step uses MPI.

An evaluation is a sequence of read-only batches between training batches. They have their places in the stream, are
looked ahead to and use the caches like all others, but their samples stay in order. So the assignment of samples, like
everything that the model depends on, depends on the training batches alone.

A *boundary* is a place between two plans where the job can stop and go on later. It holds what the caches contain
there, and the assignment of the samples of batches that are assigned but not planned. The planning thread makes it
right after the plan before it, so no step waits for another.

If the model needs to know how often each item has occurred, the planning thread counts the items of each training
batch as it makes its plan. So a boundary has the counts of exactly the iterations before it.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.item_features import counts_items, item_column
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.errors import TableFullError
from bagpipe_hpc.lookahead.dynamic_rows import warm_up_mapping
from bagpipe_hpc.lookahead.item_counts import CountedItems, ItemCounts, warm_up_counting
from bagpipe_hpc.lookahead.locality import AssignerState, LocalityAssigner
from bagpipe_hpc.lookahead.planner import BATCHES_AHEAD, Planner
from bagpipe_hpc.lookahead.warm_up import warm_up
from bagpipe_hpc.oracle.dynamic_tables import DynamicTables, DynamicTablesState, TableFigures
from bagpipe_hpc.pipeline import Cores, Pipeline
from bagpipe_hpc.protocol.codec import PlanMessages, encode_plan
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array, IterationPlan, Residents
from bagpipe_hpc.sharding import KeySpace, share_boundaries


@dataclass(frozen=True)
class SampleAssignment:
    """The assignment of samples to trainers after a boundary.

    Args:
        state: The state of the assigner. The assignment of later batches depends on it.
        orders: The order of the samples of each batch that is assigned already, int32, shape (num_samples,); see
            `LocalityAssigner.order`.
    """

    state: AssignerState
    orders: tuple[Int32Array, ...]


@dataclass(frozen=True)
class Boundary:
    """A place between two plans where the job can stop and go on later.

    Args:
        num_trained: Training iterations of the whole job before it.
        residents: The rows in the caches.
        assignment: The assignment of the samples of later batches. None: samples stay in order.
        is_stop: Whether no plan follows, because the stream was stopped.
        items: How often each item has occurred in the training samples before it. None: the job does not count items.
        dynamic: Returns the ids of dynamic tables, which may take seconds. The thread of a commit calls it, once. None:
            there are no such tables.
    """

    num_trained: int
    residents: Residents
    assignment: SampleAssignment | None
    is_stop: bool = False
    items: ItemCounts | None = None
    dynamic: Callable[[], DynamicTablesState] | None = None


@dataclass(frozen=True)
class EncodedPlan:
    """The plan of one iteration and its encoded messages; the boundary behind it, or None if it has none.

    `tables` has the figures of the dynamic tables after it, `cached_rows` the number of rows in each trainer's cache.
    """

    plan: IterationPlan
    messages: PlanMessages
    boundary: Boundary | None
    tables: Mapping[str, TableFigures] = field(default_factory=dict)
    cached_rows: Sequence[int] = ()


class PlanStream:
    """The plans of all batches of a job.

    Args:
        config: The settings of the job.
        schema: The schema of the samples.
        num_trainers: T.
        num_servers: S.
        cache_rows: Slots per trainer.
        num_batches: The number of batches of the whole stream. The lookahead window is never larger.
        is_boundary: Returns whether there is a boundary behind a plan. The planning thread calls it.
        admits: Returns whether the stream goes on with a batch. A thread of the pipeline calls it with every batch, in
            order, and may wait in it.
        start: Training iterations of earlier starts of the job.
        before: The boundary before the first batch. None: the caches are empty.
        frequent_ids: Of each dynamic table that admits by future uses: the ids that have enough of them.

    `end` is the boundary behind the last plan, once the stream has come to its end without being stopped.
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
        frequent_ids: Mapping[str, Int64Array] | None = None,
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
            num_blocks=config.training.blocks,
            has_plain_labels=schema.has_plain_labels,
            first_iteration=start,
            residents=before.residents if before else None,
        )
        self._assigner: _ResumableAssigner | None = None
        num_blocks = config.training.blocks or num_trainers
        if config.oracle.placement == "locality" and num_blocks > 1:
            table_offsets = KeySpace(schema.num_embeddings).table_offsets
            rule = LocalityAssigner(num_blocks, table_offsets, schema.features)
            self._assigner = _ResumableAssigner(rule, before.assignment if before else None)
        self._items: CountedItems | None = None
        column = item_column(config, schema)
        if column is not None:
            name = schema.one_hot_tables[column].name
            self._items = CountedItems(name, column, before.items if before else None)
        self._dynamic: DynamicTables | None = None
        if schema.dynamic_tables:
            ids_before = before.dynamic() if before is not None and before.dynamic is not None else None
            self._dynamic = DynamicTables(schema, start, ids_before, frequent_ids)
        self._is_checkpoint_due, self._admits = is_boundary, admits
        self._stop = threading.Event()
        self._is_stopped = False
        self._is_cut = False  # a batch was not admitted, or `_full` is set
        self._full: TableFullError | None = None  # why a batch could not get rows
        self._num_trained = start  # training iterations of the whole job up to the latest plan
        self.end: Boundary | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """The time that each step has worked so far, by its name."""
        return dict(self._pipeline.seconds)

    def stop(self) -> None:
        """Let the stream end after the next plan, with a boundary behind it."""
        self._stop.set()

    @property
    def dynamic_figures(self) -> dict[str, TableFigures]:
        """The figures of each dynamic table after the plan that was made last."""
        return self._dynamic.figures() if self._dynamic is not None else {}

    @property
    def key_state_bytes(self) -> int:
        """The bytes of the planner's state per key, for all keys together, whether touched or not."""
        return self._planner.key_state_bytes

    def plans(self, batches: Iterator[Batch], meanwhile: Callable[[], object] | None = None) -> Iterator[EncodedPlan]:
        """Yield the plans of all batches, in order.

        Args:
            batches: The batches. A thread of the pipeline reads them.
            meanwhile: Called again and again while the caller waits for a plan.
        Raises:
            CacheTooSmallError: the rows of a batch do not fit into the caches.
            DatasetError: a batch cannot be read.
            TableFullError: a dynamic table has no row for an id of the next batch. All batches before it have plans.
        Communication: none.
        """
        pipeline = self._pipeline
        read = pipeline.source("read batch", itertools.takewhile(self._goes_on, batches))
        assigned = read = self._admitted(read)
        if self._dynamic is not None:
            assigned = read = pipeline.step("map ids", self._map, read)
        if self._assigner is not None:
            assigned = pipeline.step("assign samples", self._assign, read)
        due = pipeline.step("enter batch", self._enter, assigned, at_end=self._still_due)
        plans = pipeline.step("plan", self._plan, due, at_end=self._note_end)
        yield from pipeline.step("encode", _encode, plans, meanwhile=meanwhile)
        if self._full is not None and not self._is_stopped:
            raise self._full

    def _goes_on(self, _: Batch) -> bool:
        return not (self._is_stopped or self._is_cut)

    def _admitted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        # This runs between two steps, so a thread that waits here holds no core.
        for batch in batches:
            if self._is_cut or not self._admits(batch):
                self._is_cut = True
                deque(batches, maxlen=0)  # drop the batches that are read already, so that the reading thread ends
                return
            yield batch

    def _map(self, batch: Batch) -> Iterable[Batch]:
        assert self._dynamic is not None
        try:
            return [self._dynamic.mapped(batch)]
        except TableFullError as error:
            self._full, self._is_cut = error, True  # so `_admitted` ends the stream before this batch
            return []

    def _assign(self, batch: Batch) -> Iterable[Batch]:
        assert self._assigner is not None
        yield batch if batch.read_only else batch.take(self._assigner.order(batch))

    def _enter(self, batch: Batch) -> Iterable[None]:
        """Enter a batch; return one item for each plan that is due now."""
        if self._items is not None:
            self._items.enter(batch)
        return [None] if self._planner.enter(batch) else []

    def _plan(self, _: None) -> Iterable[_Planned]:
        if self._is_stopped:
            return
        plan = self._planner.emit()
        if self._items is not None:
            plan = self._items.counted(plan)
        if self._assigner is not None and not plan.read_only:
            self._assigner.forget_first()
        if self._dynamic is not None and not plan.read_only:
            self._dynamic.planned()
        self._num_trained = plan.num_trained_after
        self._is_stopped = self._stop.is_set()
        is_boundary = self._is_stopped or self._is_checkpoint_due(plan)
        boundary = self._boundary(self._is_stopped) if is_boundary else None
        yield plan, boundary, self.dynamic_figures, self._planner.cached_rows()

    def _boundary(self, is_stop: bool) -> Boundary:
        assignment = self._assigner.assignment() if self._assigner is not None else None
        items = self._items.counts() if self._items is not None else None
        dynamic = self._dynamic.state_later() if self._dynamic is not None else None
        return Boundary(self._num_trained, self._planner.residents(), assignment, is_stop, items, dynamic)

    def _note_end(self) -> tuple[()]:
        if not self._is_stopped:
            self.end = self._boundary(self._is_cut and self._stop.is_set())
        return ()

    def _still_due(self) -> Iterable[None]:
        return [None] * min(self._window, self._planner.num_entered)


_Planned = tuple[IterationPlan, Boundary | None, Mapping[str, TableFigures], Sequence[int]]


def _encode(planned: _Planned) -> Iterable[EncodedPlan]:
    plan, boundary, tables, cached_rows = planned
    return [EncodedPlan(plan, encode_plan(plan), boundary, tables, cached_rows)]


class _ResumableAssigner:
    """Assigns samples, and can say at any boundary how the assignment goes on. Two threads use it.

    Args:
        assigner: Assigns the samples of new batches.
        before: The assignment at the boundary before the first batch.
    """

    def __init__(self, assigner: LocalityAssigner, before: SampleAssignment | None) -> None:
        self._assigner = assigner
        self._lock = threading.Lock()
        self._orders: deque[Int32Array] = deque()  # orders of batches that are assigned but not planned
        self._due: deque[Int32Array] = deque()  # orders of batches to come that an earlier start has assigned
        if before is not None:
            assigner.restore(before.state)
            self._due.extend(before.orders)

    def order(self, batch: Batch) -> Int32Array:
        """Assign the samples of the next batch.

        Returns:
            The order of the samples, int32, shape (num_samples,); see `LocalityAssigner.order`.
        """
        num_samples, bags = batch.num_samples, tuple(batch.bags.values())
        share_ends = np.asarray(share_boundaries(num_samples, self._assigner.num_trainers), dtype=np.int64)
        with self._lock:
            if self._due and len(self._due[0]) != num_samples:
                self._due.clear()  # the earlier start had another batch size
            order = self._due.popleft() if self._due else self._assigner.order(batch.ids, share_ends, bags)
            self._orders.append(order)
        return order

    def forget_first(self) -> None:
        """Forget the order of the first assigned batch, because its plan is made."""
        with self._lock:
            self._orders.popleft()

    def assignment(self) -> SampleAssignment:
        """Return the assignment of the samples of all batches that have no plan yet."""
        with self._lock:
            return SampleAssignment(self._assigner.state(), (*self._orders, *self._due))


def warm_up_planning(config: Config, schema: Schema, num_trainers: int) -> None:
    """Compile all functions that a `PlanStream` of this job uses, so that no iteration waits for compilation."""
    is_wide = any(table.num_embeddings >= 2**31 for table in schema.one_hot_tables)
    id_dtype = np.dtype(np.int64 if is_wide else np.int32)
    largest_batch = max(config.training.batch_size, config.evaluation.batch_size or 0)
    # The number of ids of a sample in a ragged feature has no bound.
    largest_share = None if schema.ragged_tables else -(-largest_batch // num_trainers)
    warm_up(sum(schema.num_embeddings), id_dtype, config.oracle.max_dense_keys, largest_share)
    if counts_items(config):
        warm_up_counting()
    if schema.dynamic_tables:
        warm_up_mapping()
