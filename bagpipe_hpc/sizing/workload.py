"""What the ranks of a job move in each iteration: the planner of a job plans the samples of a data set, and its plans
are counted.

Nothing is trained. The planner is that of a job (`lookahead/planner.py`), with the same samples in the same order. So
the numbers of rows are those of a job, not estimates. Only the samples of the job are fewer, if the caller cuts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.lookahead.locality import LocalityAssigner
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.codec import PlanMessages, encode_plan
from bagpipe_hpc.protocol.plan import Float64Array, Int64Array, IterationPlan
from bagpipe_hpc.sharding import KeySpace, share_boundaries

UNBOUNDED_ROWS = 2**31 - 1  # slots that no job fills


@dataclass(frozen=True)
class Choice:
    """Settings that the advisor chooses among.

    Args:
        num_trainers: T.
        num_servers: S.
        batch_size: B, samples of all trainers together.
        window: L; 0: synchronous mode.
        prefetch_depth: P <= L.
        cache_rows: Slots of each trainer; None: as many as are needed.
        is_local: Whether samples are assigned to trainers by locality.
    """

    num_trainers: int
    num_servers: int
    batch_size: int
    window: int
    prefetch_depth: int
    cache_rows: int | None = None
    is_local: bool = False


@dataclass(frozen=True)
class Workload:
    """What the ranks of a job move, iteration by iteration.

    Args:
        choice: The settings.
        num_samples: Samples of each iteration, int64, shape (n,).
        unique_rows: Different rows that each trainer uses, int64, shape (n, T).
        fetched: Rows from servers to trainers, int64, shape (n, T, S).
        written_back: Rows from trainers to servers, int64, shape (n, T, S).
        forced: Rows that were evicted to make room, int64, shape (n,).
        pushed: Rows by receiver, owner and Gray class, int64, shape (n, T, T, 4).
        plan_bytes: Bytes of the plan of each server, then of each trainer, int64, shape (n, S + T).
        slots: Cache slots that the fullest trainer has used. Without a bound of the cache, nothing is forced out with
            so many.
        oracle_seconds: Time that a core works to plan and encode an iteration: a quarter of the iterations take
            at most as long.
    """

    choice: Choice
    num_samples: Int64Array
    unique_rows: Int64Array
    fetched: Int64Array
    written_back: Int64Array
    forced: Int64Array
    pushed: Int64Array
    plan_bytes: Int64Array
    slots: int
    oracle_seconds: float

    @property
    def num_iterations(self) -> int:
        """The number of iterations."""
        return len(self.num_samples)

    @property
    def num_entries_bound(self) -> int:
        """Different rows of an iteration, at most: each trainer may use rows of its own."""
        return int(self.unique_rows.sum(axis=1).max())

    @property
    def steady(self) -> slice:
        """The middle third of the iterations, which leaves out that caches fill at the start and empty at the end."""
        n = self.num_iterations
        return slice(n // 3, max(n // 3 + 1, 2 * n // 3))


def play_plans(
    batches: Sequence[Batch],
    schema: Schema,
    choice: Choice,
    note: Callable[[int], object] = lambda planned: None,
) -> Workload:
    """Plan all batches, and count what the plans move.

    Args:
        batches: The batches, of choice.batch_size samples each. The last one may have fewer.
        schema: Their schema.
        choice: The settings.
        note: Is called with the number of iterations that are planned.
    Raises:
        CacheTooSmallError: choice.cache_rows is too small.
    Communication: none.
    """
    planner = Planner(
        num_embeddings=schema.num_embeddings,
        features=schema.features,
        num_trainers=choice.num_trainers,
        num_servers=choice.num_servers,
        window=max(choice.prefetch_depth, min(choice.window, len(batches))),
        prefetch_depth=choice.prefetch_depth,
        cache_rows=choice.cache_rows or UNBOUNDED_ROWS,
        has_plain_labels=schema.has_plain_labels,
    )
    counted: list[_Counts] = []
    clock = _StepClock()

    def emit() -> None:
        counted.append(_count(*clock.timed("plan", lambda: _encoded(planner.emit()))))
        note(len(counted))

    for batch in _assigned(batches, schema, choice):
        if clock.timed("enter", partial(planner.enter, batch)):
            emit()
    while planner.num_pending:
        emit()
    arrays = (np.stack(column) for column in zip(*counted, strict=True))
    num_samples, unique, fetched, written, forced, pushed, sizes = arrays
    return Workload(
        choice, num_samples, unique, fetched, written, forced, pushed, sizes, planner.num_slots, clock.seconds
    )


_Counts = tuple[Int64Array, ...]
_Result = TypeVar("_Result")


class _StepClock:
    """Times the steps of the planner by the time that the core works for this thread."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def timed(self, step: str, work: Callable[[], _Result]) -> _Result:
        """Do some work, and note its time."""
        begun = time.thread_time()
        result = work()
        self._seconds.setdefault(step, []).append(time.thread_time() - begun)
        return result

    @property
    def seconds(self) -> float:
        """The lower quartile of the times of each step, added up: other processes on the core make the rest longer."""
        return sum(float(np.percentile(times, 25)) for times in self._seconds.values())


def _encoded(plan: IterationPlan) -> tuple[IterationPlan, PlanMessages]:
    return plan, encode_plan(plan)


def _count(plan: IterationPlan, messages: PlanMessages) -> _Counts:
    """Return what an iteration moves, in the order of the fields of Workload."""
    return (
        plan.samples.sample_ends[-1:].sum(),
        np.diff(plan.exchange.unique_ends),
        plan.fetches.counts,
        plan.write_backs.counts,
        plan.forced_counts.sum(),
        plan.exchange.replica_counts.astype(np.int64),
        np.array([len(message) for message in (*messages.servers, *messages.trainers)], dtype=np.int64),
    )


def _assigned(batches: Iterable[Batch], schema: Schema, choice: Choice) -> Iterator[Batch]:
    """Yield the batches with their samples in the order in which trainers take them."""
    if not choice.is_local or choice.num_trainers == 1:
        yield from batches
        return
    rule = LocalityAssigner(choice.num_trainers, KeySpace(schema.num_embeddings).table_offsets, schema.features)
    for batch in batches:
        share_ends = np.asarray(share_boundaries(batch.num_samples, choice.num_trainers), dtype=np.int64)
        yield batch.take(rule.order(batch.ids, share_ends, tuple(batch.bags.values())))


def mean_and_peak(values: Int64Array | Float64Array) -> tuple[float, float]:
    """Return the mean and the 95th percentile of one value per iteration, shape (n,)."""
    return float(np.mean(values)), float(np.percentile(values, 95))
