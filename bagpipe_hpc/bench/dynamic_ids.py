"""Dynamic tables at the oracle: the speed of one thread that gives ids their rows, and the memory they take.

A map grows to a number of ids, batch by batch. There it is measured, and then it grows on to the next number. Without
skew, the ids of a measured batch are drawn at random from all ids of the map, so nearly every access waits for memory.
Real logs use some ids much more often than others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.dataset import Progress, no_progress
from bagpipe_hpc.data.random_numbers import Float64Array, zipf_rank
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.lookahead.dynamic_rows import DynamicRows, warm_up_mapping
from bagpipe_hpc.lookahead.id_map import MAX_ROWS
from bagpipe_hpc.memory_use import resident_bytes
from bagpipe_hpc.sharding import Int64Array

SEEN_BYTES = 64 << 20
_STEP = 1_000_003  # a prime
_ODD = 0x9E3779B97F4A7C15  # numbers times an odd number, modulo 2^64, are different ids


@dataclass(frozen=True)
class DynamicIdsCase:
    """What to measure.

    Args:
        sizes: The numbers of ids to measure at, ascending.
        batch: Ids of a batch.
        skew: Exponent of the Zipf distribution of the ids of a batch; 0: all are equally likely.
        rounds: Batches of each kind that are timed at each number of ids. New ids are timed in the last ones before it.
    Raises:
        ConfigError: A value is out of range.
    """

    sizes: tuple[int, ...]
    batch: int = 65_536
    rounds: int = 20
    skew: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("rounds", self.rounds)):
            if value < 1:
                raise ConfigError(f"--{name} is {value}, but must be at least 1")
        if not 0 <= self.skew <= 5:
            raise ConfigError(f"--skew is {self.skew}, but must be from 0 to 5")
        ascends = list(self.sizes) == sorted(set(self.sizes))
        if not self.sizes or not ascends or self.sizes[0] < 1 or self.sizes[-1] > MAX_ROWS:
            raise ConfigError(f"--ids needs ascending numbers from 1 to {MAX_ROWS:,}, separated by commas")


@dataclass(frozen=True)
class DynamicIdsFigures:
    """What was measured at one number of ids, with one thread.

    Args:
        num_ids: The ids with rows.
        looked_up: Ids per second of an evaluation, which changes nothing.
        used: Ids per second of training, if all of them have rows.
        born: Ids per second that get a row.
        bytes_per_id: Memory by which the process grew with the map; nan if it grew by less than SEEN_BYTES.
        growing_seconds: The median batch while the map grew to this number, and the longest one.
        copy_seconds: How long a checkpoint keeps ids from being mapped.
        state_seconds: How long the thread of the commit works on the copy.
    """

    num_ids: int
    looked_up: float
    used: float
    born: float
    bytes_per_id: float
    growing_seconds: tuple[float, float]
    copy_seconds: float
    state_seconds: float


def measure_dynamic_ids(case: DynamicIdsCase, progress: Progress = no_progress) -> list[DynamicIdsFigures]:
    """Measure. It takes memory for the largest number of ids, twice.

    Communication: none.
    """
    keep_freed_memory()
    warm_up_mapping()
    grown = _Grown(case)
    return [grown.measured_at(size, progress) for size in case.sizes]


class _Grown:
    """A map that grows from one number of ids to the next."""

    def __init__(self, case: DynamicIdsCase) -> None:
        self._case = case
        self._rows = DynamicRows(DynamicSchema(capacity=case.sizes[-1]))
        self._random = np.random.default_rng(0)
        self._num_ids = self._iteration = 0

    def measured_at(self, size: int, progress: Progress) -> DynamicIdsFigures:
        batch, rounds = self._case.batch, range(self._case.rounds)
        num_ids, num_bytes = self._num_ids, resident_bytes()
        growing, born = [], []
        while self._num_ids < size:
            number = min(batch, size - self._num_ids)
            growing.append(self._seconds_of_use(_ids(np.arange(self._num_ids, self._num_ids + number))))
            born.append(number / growing[-1])
            self._num_ids += number
            progress("growing", self._num_ids, self._case.sizes[-1])
        num_bytes = resident_bytes() - num_bytes
        progress(f"measuring with {size:,} ids", 0, 0)
        looked_up = [batch / _seconds_of(self._rows.look_up, self._known()) for _ in rounds]
        used = [batch / self._seconds_of_use(self._known()) for _ in rounds]
        self._rows.state_before([])  # the first time, a virtual machine gets the memory from its host
        start = time.perf_counter()
        state = self._rows.state_later([])
        copied = time.perf_counter()
        state()
        return DynamicIdsFigures(
            num_ids=size,
            looked_up=median(looked_up),
            used=median(used),
            born=median(born[-len(rounds) :]),
            bytes_per_id=num_bytes / (size - num_ids) if num_bytes > SEEN_BYTES else float("nan"),
            growing_seconds=(median(growing), max(growing)),
            copy_seconds=copied - start,
            state_seconds=time.perf_counter() - copied,
        )

    def _known(self) -> Int64Array:
        # The ranks of ids are scattered over the order in which they came into the map.
        ranks = _ranks(self._random.random(self._case.batch), self._num_ids, self._case.skew)
        return _ids(ranks * _STEP % self._num_ids)

    def _seconds_of_use(self, ids: Int64Array) -> float:
        self._iteration += 1
        return _seconds_of(lambda each: self._rows.use(each, self._iteration), ids)


@compiled
def _ranks(uniform: Float64Array, num_ids: int, skew: float) -> Int64Array:
    ranks = np.empty(len(uniform), np.int64)
    for j in range(len(uniform)):
        ranks[j] = zipf_rank(uniform[j], num_ids, skew)
    return ranks


def _seconds_of(call: Callable[[Int64Array], object], ids: Int64Array) -> float:
    start = time.perf_counter()
    call(ids)
    return time.perf_counter() - start


def _ids(numbers: Int64Array) -> Int64Array:
    ids: Int64Array = (numbers.astype(np.uint64) * np.uint64(_ODD)).view(np.int64)
    return ids


def dynamic_ids_table(figures: list[DynamicIdsFigures], case: DynamicIdsCase) -> Table:
    """Return the figures as a table."""
    rates, times = ("look-ups M/s", "uses M/s", "new M/s"), ("growing ms", "longest", "copy ms", "state s")
    heads = (*rates, "bytes/id", *times)
    table = compact_table(f"ids of a dynamic table, one thread, batches of {case.batch:,} ids", "ids", heads)
    for each in figures:
        table.add_row(
            f"{each.num_ids:,}",
            *(f"{rate / 1e6:.1f}" for rate in (each.looked_up, each.used, each.born)),
            "-" if np.isnan(each.bytes_per_id) else f"{each.bytes_per_id:.1f}",
            *(f"{1e3 * seconds:.1f}" for seconds in each.growing_seconds),
            f"{1e3 * each.copy_seconds:.0f}",
            f"{each.state_seconds:.2f}",
        )
    return table


def to_json(figures: list[DynamicIdsFigures]) -> list[dict[str, Any]]:
    """Return all figures as JSON values."""
    return [asdict(each) for each in figures]
