"""The speed of one oracle: its whole pipeline from shards to plan messages, without ranks that receive them.

The time of a batch is compared with a *yardstick*: the time of `numpy.unique` for each feature over the ids of a batch.
Rounds of planning and of the yardstick alternate, so that other load on the machine slows both. Plans are timed while
the lookahead window is full.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.cache_hint import DISTANCE, hint
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset, Progress, no_progress, open_dataset, require_labels
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.lookahead.next_use import DenseKeyState
from bagpipe_hpc.oracle.plan_stream import EncodedPlan, PlanStream, warm_up_planning
from bagpipe_hpc.oracle.summary import imbalance
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array, IterationPlan
from bagpipe_hpc.scratch import scratch_directory

SKIPPED_PLANS = 10  # at the start of a round: some of them are made while the yardstick is measured
YARDSTICK_BATCHES = 5  # how often the yardstick is measured per round
LINE_BYTES = 64  # of a cache line
# Memory that an iteration touches; see "What one oracle sustains" in docs/architecture.md.
LINES_PER_ENTRY = 3  # state of the key, its previous use, its next use
BYTES_PER_ENTRY = 3 * 28  # key, SLOT to LAST_PAIR, next use: written on entering, read and written in planning
BYTES_PER_PAIR = 3 * 8 + 3 * 8  # entry and link; code and position
BYTES_PER_ID = 3 * 4 + 2 * 4 + 3 * 2  # read and checked, keys, inverse


@dataclass(frozen=True)
class OracleCase:
    """What to plan.

    Args:
        profile: Of the synthetic data set; not used if `data` is given.
        scale: Factor on the numbers of rows of the profile's tables.
        data: A data set; None: a synthetic one, which is deleted afterwards.
        batch: B.
        lookahead: L.
        prefetch_depth: P.
        trainers: T.
        servers: S.
        threads: `oracle.threads`.
        placement: `oracle.placement`.
        cache_rows: Number of slots per trainer; None: enough for all rows.
        rounds: Number of rounds.
        plans: Number of plans that are timed per round.
        history_length: Elements of a history on average; only for the profile histories.
    Raises:
        ConfigError: a number is below 1.
    """

    profile: str = "criteo-kaggle"
    scale: float = 1.0
    data: Path | None = None
    batch: int = 16384
    lookahead: int = 200
    prefetch_depth: int = 4
    trainers: int = 8
    servers: int = 2
    threads: int = 1
    placement: str = "contiguous"
    cache_rows: int | None = None
    rounds: int = 5
    plans: int = 20
    history_length: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "lookahead", "prefetch_depth", "trainers", "servers", "threads", "rounds", "plans"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; at least 1 is needed")

    @property
    def num_batches(self) -> int:
        """The number of batches of the stream. The lookahead window stays full until the last timed plan."""
        return self.lookahead + self.rounds * (SKIPPED_PLANS + self.plans) + 2 * SKIPPED_PLANS

    @property
    def config(self) -> Config:
        """The same as the settings of a job."""
        return Config.model_validate(
            {
                "training": {"batch_size": self.batch},
                "lookahead": {"window": self.lookahead, "prefetch_depth": min(self.prefetch_depth, self.lookahead)},
                "oracle": {"threads": self.threads, "placement": self.placement},
            }
        )


@dataclass
class _Counts:
    """Sums over the timed plans; the lists have one int64 array of shape (T,) per plan."""

    plans: int = 0
    ids: int = 0
    entries: int = 0
    pairs: int = 0
    fetches: int = 0
    write_backs: int = 0
    forced: int = 0
    pushes: int = 0
    trainer_bytes: int = 0
    message_bytes: int = 0
    owned: list[Int64Array] = field(default_factory=list)
    pushed: list[Int64Array] = field(default_factory=list)
    written_back: list[Int64Array] = field(default_factory=list)

    def add(self, encoded: EncodedPlan) -> None:
        plan: IterationPlan = encoded.plan
        self.plans += 1
        self.ids += len(plan.inverse)
        self.entries += len(plan.exchange.update_slots)
        self.pairs += len(plan.exchange.unique_rows)
        self.fetches += int(plan.fetches.counts.sum())
        self.write_backs += int(plan.write_backs.counts.sum())
        self.forced += int(plan.forced_counts.sum())
        self.pushes += len(plan.exchange.push_index)
        self.trainer_bytes += sum(map(len, encoded.messages.trainers))
        self.message_bytes += encoded.messages.num_bytes
        self.owned.append(np.diff(plan.exchange.update_ends))
        self.pushed.append(np.diff(plan.exchange.push_ends))
        self.written_back.append(plan.write_backs.counts.sum(axis=1))


@dataclass(frozen=True)
class OracleFigures:
    """What was measured. Times are in milliseconds per batch; numbers of keys, rows and bytes are per batch, too."""

    case: dict[str, Any]
    num_keys: int
    num_tables: int
    milliseconds: float
    milliseconds_of_steps: dict[str, float]
    yardstick_milliseconds: float  # with ids as int64
    yardstick_int32_milliseconds: float
    bound_milliseconds: float
    random_bytes_per_second: float
    copied_bytes_per_second: float
    ids: float
    keys: float
    trainer_keys: float
    fetches: float
    write_backs: float
    forced_evictions: float
    pushes: float
    bytes_per_sample_and_trainer: float
    plan_bytes: float
    imbalance: dict[str, float]
    peak_bytes: int
    key_state_bytes: int

    @property
    def samples_per_second(self) -> float:
        """The number of samples that are planned per second."""
        return float(self.case["batch"]) / (self.milliseconds / 1e3)

    @property
    def ids_per_second(self) -> float:
        """The number of row ids that are planned per second."""
        return self.ids / (self.milliseconds / 1e3)

    @property
    def ratio(self) -> float:
        """The time of a batch divided by the yardstick."""
        return self.milliseconds / self.yardstick_milliseconds

    @property
    def ratio_int32(self) -> float:
        """The time of a batch divided by the yardstick with int32 ids."""
        return self.milliseconds / self.yardstick_int32_milliseconds

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            **asdict(self),
            "samples_per_second": self.samples_per_second,
            "ids_per_second": self.ids_per_second,
            "ratio": self.ratio,
            "ratio_int32": self.ratio_int32,
        }

    def table(self) -> Table:
        """Return the figures as a table for the terminal."""
        case = self.case
        title = (
            f"oracle: B = {case['batch']:,}, L = {case['lookahead']}, T = {case['trainers']}, S = {case['servers']}, "
            f"{case['threads']} thread{'s' if case['threads'] > 1 else ''}, {case['placement']}; "
            f"{self.num_tables} tables, {self.num_keys:,} keys"
        )
        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        for row in self._rows():
            table.add_row(*row) if row else table.add_section()
        return table

    def _rows(self) -> Iterator[tuple[str, str, str] | None]:
        yield "samples/s", f"{self.samples_per_second:,.0f}", f"{self.milliseconds:.2f} ms per batch, median"
        yield "ids/s", f"{self.ids_per_second:,.0f}", f"{self.ids:,.0f} per batch"
        yield None
        for step, milliseconds in self.milliseconds_of_steps.items():
            yield step, f"{milliseconds:.2f} ms", "time that its thread works"
        yield None
        yield "yardstick", f"{self.yardstick_milliseconds:.2f} ms", "numpy.unique per feature, int64 ids as in torch"
        yield (
            "ratio",
            f"{self.ratio:.2f}",
            f"with int32 ids the yardstick takes {self.yardstick_int32_milliseconds:.2f} ms",
        )
        yield (
            "bound",
            f"{self.bound_milliseconds:.2f} ms",
            (
                f"bytes touched, at {self.random_bytes_per_second / 1e9:.1f} GB/s random and "
                f"{self.copied_bytes_per_second / 1e9:.1f} GB/s copied"
            ),
        )
        yield None
        yield "unique keys", f"{self.keys:,.0f}", f"{self.trainer_keys:,.0f} counted per trainer"
        yield "fetches", f"{self.fetches:,.0f}", "rows per iteration"
        yield "write-backs", f"{self.write_backs:,.0f}", f"{self.forced_evictions:,.0f} of them forced by full caches"
        yield "pushes", f"{self.pushes:,.0f}", "rows between trainers, each way"
        for what, value in self.imbalance.items():
            yield f"imbalance, {what}", f"{value:.2f}", "largest trainer / mean"
        yield None
        yield "plan", f"{self.bytes_per_sample_and_trainer:.0f} B", "per sample of a trainer's share, samples included"
        yield "plans of all ranks", f"{self.plan_bytes / 1e6:.2f} MB", "per iteration"
        yield "peak memory", f"{self.peak_bytes / 1e9:.2f} GB", f"key state {self.key_state_bytes / 1e9:.2f} GB"


def measure_oracle(case: OracleCase, progress: Progress = no_progress) -> OracleFigures:
    """Plan a stream of batches and measure the time.

    Args:
        case: What to plan.
        progress: Is called with what happens now, and how much of it is done.
    Raises:
        ConfigError: the data set is too short for the case.
        DatasetError: the data set is damaged.
    """
    keep_freed_memory()
    with _dataset(case, progress) as dataset:
        schema = dataset.schema
        config = case.config
        progress("compiling the planner", 0, 0)
        warm_up_planning(config, schema, case.trainers)
        stream = PlanStream(
            config,
            schema,
            num_trainers=case.trainers,
            num_servers=case.servers,
            cache_rows=case.cache_rows or 2 * sum(schema.num_embeddings),
            num_batches=case.num_batches,
        )
        read = _Tap(dataset.train.batches(case.batch))
        plans = stream.plans(itertools.islice(read, case.num_batches))
        counts, times, yardsticks, narrow_yardsticks = _Counts(), [], [], []
        timed_steps: dict[str, float] = {}
        for number in range(case.rounds):
            progress("planning, rounds", number, case.rounds)
            for _ in range(SKIPPED_PLANS):
                next(plans)
            before, start = stream.seconds, time.perf_counter()
            round_plans = list(itertools.islice(plans, case.plans))
            times.append((time.perf_counter() - start) / case.plans)
            for step, seconds in stream.seconds.items():
                timed_steps[step] = timed_steps.get(step, 0.0) + seconds - before[step]
            for encoded in round_plans:
                counts.add(encoded)
            del round_plans
            assert read.latest is not None
            yardsticks.append(_yardstick(read.latest, np.int64))
            narrow_yardsticks.append(_yardstick(read.latest, np.int32))
    num_keys = sum(schema.num_embeddings)
    progress("measuring memory", 0, 0)
    random_speed, copy_speed = _random_speed(min(num_keys, 2**27)), _copy_speed()
    n = counts.plans
    touched = LINES_PER_ENTRY * LINE_BYTES * counts.entries / random_speed + (
        BYTES_PER_ENTRY * counts.entries
        + BYTES_PER_PAIR * counts.pairs
        + BYTES_PER_ID * counts.ids
        + 2 * counts.message_bytes
    ) / (2 * copy_speed)
    return OracleFigures(
        case={**asdict(case), "data": str(case.data) if case.data else None},
        num_keys=num_keys,
        num_tables=schema.num_tables,
        milliseconds=1e3 * median(times),
        milliseconds_of_steps={step: 1e3 * seconds / n for step, seconds in timed_steps.items()},
        yardstick_milliseconds=1e3 * median(yardsticks),
        yardstick_int32_milliseconds=1e3 * median(narrow_yardsticks),
        bound_milliseconds=1e3 * touched / n,
        random_bytes_per_second=random_speed,
        copied_bytes_per_second=copy_speed,
        ids=counts.ids / n,
        keys=counts.entries / n,
        trainer_keys=counts.pairs / n,
        fetches=counts.fetches / n,
        write_backs=counts.write_backs / n,
        forced_evictions=counts.forced / n,
        pushes=counts.pushes / n,
        bytes_per_sample_and_trainer=counts.trainer_bytes / n / case.batch,
        plan_bytes=counts.message_bytes / n,
        imbalance={
            "rows owned": imbalance(np.sum(counts.owned, axis=0)),
            "rows pushed": imbalance(np.sum(counts.pushed, axis=0)),
            "write-backs": imbalance(np.sum(counts.written_back, axis=0)),
        },
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        key_state_bytes=stream.key_state_bytes,
    )


class _Tap:
    """Yields the same batches, and keeps the latest one."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.latest: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.latest = batch
            yield batch


@contextmanager
def _dataset(case: OracleCase, progress: Progress) -> Iterator[Dataset]:
    num_samples = case.num_batches * case.batch
    if case.data is not None:
        dataset = open_dataset(case.data)
        require_labels(dataset, "the benchmark")
        if dataset.train.num_samples < num_samples:
            raise ConfigError(
                f"{case.data} has {dataset.train.num_samples:,} training samples, but {case.num_batches:,} batches of "
                f"{case.batch:,} need {num_samples:,}; lower --lookahead, --rounds, --plans or --batch"
            )
        yield dataset
        return
    with scratch_directory("bagpipe-bench-") as directory:
        yield synthesize(
            directory / "data",
            num_samples=num_samples,
            profile=case.profile,
            scale=case.scale,
            history_length=case.history_length,
            validation_fraction=0.0,
            progress=progress,
        )


def _yardstick(batch: Batch, dtype: type[np.integer[Any]]) -> float:
    """Return the median time in seconds of numpy.unique on the ids of every feature of a batch, as another type."""
    columns = [*batch.ids.astype(dtype).T, *(bags.ids.astype(dtype) for bags in batch.bags.values())]
    times = []
    for _ in range(YARDSTICK_BATCHES):
        start = time.perf_counter()
        for ids in columns:
            np.unique(ids)
        times.append(time.perf_counter() - start)
    return median(times)


def _random_speed(num_rows: int) -> float:
    """Return the speed of independent accesses to random keys' states, in bytes of whole cache lines per second."""
    array = DenseKeyState(num_rows).states
    places = np.random.default_rng(0).integers(0, num_rows, 1 << 20)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        _touch(array, places)
        times.append(time.perf_counter() - start)
    return LINE_BYTES * len(places) / min(times[1:])


@compiled
def _touch(array: Int32Array, places: Int64Array) -> None:
    """Change an element of a row of `array`, shape (n, 2), at each place, shape (num_places,)."""
    for j in range(len(places)):
        hint(array, places[min(j + DISTANCE, len(places) - 1)])
        array[places[j], 0] += 1


def _copy_speed() -> float:
    """Return how many bytes per second numpy copies from one large array to another."""
    source, target = np.ones((2, 1 << 26), dtype=np.uint8)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - start)
    return source.nbytes / min(times)
