"""From shards to plan messages: the oracle's chain of work, a pipeline of threads that share `oracle.threads` cores.

    read batch       shards -> batches: decompression, checks
    place samples    which sample goes to which trainer; only with `oracle.placement: locality`
    enter batch      the next-use pass, over groups of tables
    plan             owners, slots, evictions, lists
    encode           one message per rank

Every stage may be a few batches ahead of the next; plan i is made when batch i + L has entered. No MPI here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.batch import Batch
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.lookahead.codec import PlanMessages, encode_plan
from bagpipe_hpc.lookahead.pipeline import Cores, Pipeline
from bagpipe_hpc.lookahead.placement import LocalityPlacement
from bagpipe_hpc.lookahead.plan import IterationPlan
from bagpipe_hpc.lookahead.planner import BATCHES_AHEAD, Planner, SampleBatch
from bagpipe_hpc.lookahead.warm_up import warm_up
from bagpipe_hpc.sharding import KeySpace, share_boundaries


@dataclass(frozen=True)
class EncodedPlan:
    """One iteration's plan and its messages."""

    plan: IterationPlan
    messages: PlanMessages


class PlanStream:
    """Plans of all batches of a job.

    Args:
        config: All settings.
        num_embeddings: Rows of each table.
        num_trainers: T.
        num_servers: S.
        cache_rows: Slots per trainer.
        num_batches: Batches of the whole stream: no window is larger.
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
    ) -> None:
        cores = Cores(config.oracle.threads)
        self._pipeline = Pipeline(cores, BATCHES_AHEAD)
        self._num_trainers = num_trainers
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
        )
        self._placement: LocalityPlacement | None = None
        if config.oracle.placement == "locality" and num_trainers > 1:
            self._placement = LocalityPlacement(num_trainers, KeySpace(num_embeddings).table_offsets)

    @property
    def seconds(self) -> dict[str, float]:
        """Time that each stage has worked so far."""
        return dict(self._pipeline.seconds)

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
        placed = read = pipeline.source("read batch", batches)
        if self._placement is not None:
            placed = pipeline.stage("place samples", self._place, read)
        due = pipeline.stage("enter batch", self._enter, placed, at_end=self._still_due)
        plans = pipeline.stage("plan", lambda _: [self._planner.emit()], due)
        return pipeline.stage("encode", lambda plan: [EncodedPlan(plan, encode_plan(plan))], plans)

    def _place(self, batch: SampleBatch) -> Iterable[SampleBatch]:
        assert self._placement is not None
        share_ends = np.asarray(share_boundaries(len(batch.labels), self._num_trainers), dtype=np.int64)
        order = self._placement.order(batch.ids, share_ends)
        yield replace(batch, ids=batch.ids[order], labels=batch.labels[order], dense=batch.dense[order])

    def _enter(self, batch: SampleBatch) -> Iterable[None]:
        """As many items as plans are due."""
        return [None] if self._planner.enter(batch) else []

    def _still_due(self) -> Iterable[None]:
        return [None] * min(self._window, self._planner.num_entered)


def warm_up_planning(config: Config, num_embeddings: tuple[int, ...], num_trainers: int) -> None:
    """Compile all that a `PlanStream` will use, so that no iteration waits for it."""
    id_dtype = np.dtype(np.int32 if max(num_embeddings) < 2**31 else np.int64)
    largest_batch = max(config.training.batch_size, config.evaluation.batch_size or 0)
    largest_share = -(-largest_batch // num_trainers)
    warm_up(sum(num_embeddings), id_dtype, config.oracle.max_dense_keys, largest_share)


def count_iterations(config: Config, dataset: Dataset) -> int:
    """Training iterations of the whole job."""
    per_epoch = dataset.train.num_batches(config.training.batch_size)
    total = per_epoch * config.training.epochs
    return min(total, config.training.iterations or total)


def count_batches(config: Config, dataset: Dataset) -> int:
    """Batches of the whole stream: training, then evaluation."""
    batch_size = config.evaluation.batch_size or config.training.batch_size
    num_validation = dataset.validation.num_batches(batch_size) if config.evaluation.enabled else 0
    return count_iterations(config, dataset) + num_validation


def sample_batches(config: Config, dataset: Dataset) -> Iterator[SampleBatch]:
    """All batches of the job: the epochs of the training split, then the validation split, read-only."""
    training = config.training
    epochs = (dataset.train.batches(training.batch_size) for _ in range(training.epochs))
    batches = itertools.islice(itertools.chain.from_iterable(epochs), training.iterations)
    yield from (_sample_batch(batch, read_only=False) for batch in batches)
    if config.evaluation.enabled:
        for batch in dataset.validation.batches(config.evaluation.batch_size or training.batch_size):
            yield _sample_batch(batch, read_only=True)


def _sample_batch(batch: Batch, read_only: bool) -> SampleBatch:
    return SampleBatch(batch.ids, batch.labels, batch.dense, read_only)
