"""How soon rows are used again, how many rows a batch uses, and how the most used rows change over the samples.

This is what the lookahead window and the size of the caches depend on. All of it is counted in one pass. Memory grows
with the distinct rows, not with the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.vocabulary import ValueCounter
from bagpipe_hpc.dynamic_rules import MISSING
from bagpipe_hpc.hash_table import place_of
from bagpipe_hpc.protocol.plan import Int64Array
from bagpipe_hpc.sharding import KeySpace

PIECE_SAMPLES = 1024  # of which all batch sizes are multiples
BATCH_SIZES = (1024, 4096, 16_384)
MAX_DISTANCE = 4096  # longer distances count as this one
HOT_SHARES = (0.001, 0.01, 0.1)
REUSE_SHARES = (0.9, 0.99)
DRIFT_ROWS = 1000
CURVE_POINTS = 60
_NO_KEY = -1
_MIN_PLACES = 1 << 12


@dataclass(frozen=True)
class WindowNeed:
    """A lookahead window, and what it needs.

    Args:
        share: The part of all uses of a row again that are at most `window` batches after the use before.
        window: The smallest such window; None: it is longer than MAX_DISTANCE.
        rows: Rows in all caches together, on average, if each row stays between two uses within the window.
    """

    share: float
    window: int | None
    rows: int


@dataclass(frozen=True)
class ReuseReport:
    """Uses of rows with one batch size.

    Args:
        batch_size: Samples of a batch.
        num_batches: Batches that were read; the last one may have fewer samples.
        unique_rows: Different rows of a batch, on average over the batches.
        most_unique_rows: The largest number of them.
        new_share: The part of all uses by a batch that are the first use of the row.
        median_distance: Batches from a use to the next one: half of all distances are at most as long.
        needs: The windows for REUSE_SHARES.
        windows: Windows from 1 to at most MAX_DISTANCE batches, each with the part of all uses again that it has.
    """

    batch_size: int
    num_batches: int
    unique_rows: float
    most_unique_rows: int
    new_share: float
    median_distance: int
    needs: tuple[WindowNeed, ...]
    windows: tuple[WindowNeed, ...]


@dataclass(frozen=True)
class AccessReport:
    """Uses of the rows of all tables by the training samples.

    Args:
        reuses: By batch size.
        hot_shares: Pairs of a part of the rows that occur, and the part of all accesses that go to the most used ones.
        skew: Such pairs for parts from one row to all rows, rising.
        drift: The part of the most used rows of the first tenth of the samples that are not among the most used rows of
            the last tenth; None: too few samples.
        drift_rows: How many most used rows were compared.
    """

    reuses: tuple[ReuseReport, ...]
    hot_shares: tuple[tuple[float, float], ...]
    skew: tuple[tuple[float, float], ...]
    drift: float | None
    drift_rows: int


class AccessCounts:
    """Counts of the accesses of training samples.

    Args:
        schema: The schema.
        num_samples: How many samples will be added.
    """

    def __init__(self, schema: Schema, num_samples: int) -> None:
        self._schema, self._num_samples = schema, num_samples
        self._offsets = KeySpace(schema.num_embeddings).table_offsets
        self._dynamic = {table.name for table in schema.dynamic_features}
        self._uses = _Uses()
        self._ends = ValueCounter(), ValueCounter()  # of the first and the last tenth
        self._added = 0

    def add(self, batch: Batch) -> None:
        """Add further samples. Before the last call, the numbers of samples are multiples of PIECE_SAMPLES."""
        for first in range(0, batch.num_samples, PIECE_SAMPLES):
            piece = batch.slice(first, min(first + PIECE_SAMPLES, batch.num_samples))
            keys = self._keys(piece)
            self._uses.add(keys, self._added)
            for counter, tenth in zip(self._ends, (0, 9), strict=True):
                if 10 * self._added // max(1, self._num_samples) == tenth:
                    counter.add(keys)
            self._added += piece.num_samples

    def _keys(self, batch: Batch) -> Int64Array:
        """Return the keys of all features, int64, shape (num_ids,)."""
        columns = iter(np.ascontiguousarray(batch.ids.T))
        found = []
        for feature, table in enumerate(self._schema.tables):
            ids = batch.bags[table.name].ids if table.ragged else next(columns)
            number = self._schema.features.tables[feature]
            if table.name in self._dynamic:
                found.append(mixed_ids(ids[ids != MISSING].astype(np.int64), number))
            else:
                found.append(ids.astype(np.int64) + self._offsets[number])
        return np.concatenate(found)

    def report(self) -> AccessReport:
        """Return what all samples have."""
        drift, drift_rows = _drift(*self._ends)
        counts = self._uses.counts()
        reuses = self._uses.reports(self._added)
        return AccessReport(reuses, _hot_shares(counts), _skew(counts), drift, drift_rows)


class _Uses:
    """The latest use of every row, by batch size, and the distances between uses."""

    def __init__(self) -> None:
        self._num_keys = 0
        self._keys, self._counts, self._last = _empty(_MIN_PLACES)
        self._distances = np.zeros((len(BATCH_SIZES), MAX_DISTANCE + 1), dtype=np.int64)
        self._uniques: list[list[int]] = [[] for _ in BATCH_SIZES]

    def add(self, keys: Int64Array, first_sample: int) -> None:
        """Add the keys of samples that are in the same batch, whatever its size."""
        self._reserve(len(keys))
        batches = np.array([first_sample // size for size in BATCH_SIZES], dtype=np.int64)
        num_new, uniques = _use(keys, batches, self._keys, self._counts, self._last, self._distances)
        self._num_keys += num_new
        for counts, batch, number in zip(self._uniques, batches.tolist(), uniques.tolist(), strict=True):
            counts.extend([0] * (batch + 1 - len(counts)))
            counts[batch] += number

    def counts(self) -> Int64Array:
        """Return how often each row is used, int64, shape (num_rows,)."""
        return self._counts[self._counts > 0]

    def reports(self, num_samples: int) -> tuple[ReuseReport, ...]:
        """Return the report for each batch size that the samples fill twice, or for the smallest one."""
        return tuple(
            _report(size, uniques, self._num_keys, distances)
            for size, uniques, distances in zip(BATCH_SIZES, self._uniques, self._distances, strict=True)
            if size == BATCH_SIZES[0] or num_samples >= 2 * size
        )

    def _reserve(self, num_new: int) -> None:
        if 2 * (self._num_keys + num_new) > len(self._keys):
            used = self._counts > 0
            places = 1 << (4 * (self._num_keys + num_new)).bit_length()
            grown = _empty(places)
            _move(self._keys[used], self._counts[used], self._last[:, used], *grown)
            self._keys, self._counts, self._last = grown


def _report(batch_size: int, uniques: list[int], num_keys: int, distances: Int64Array) -> ReuseReport:
    total, num_batches = sum(uniques), len(uniques)
    per_batch = total / num_batches if num_batches else 0.0
    return ReuseReport(
        batch_size,
        num_batches,
        per_batch,
        max(uniques, default=0),
        num_keys / total if total else 0.0,
        _quantile(distances, 0.5) or 0,
        tuple(_need(distances, share, per_batch, num_batches) for share in REUSE_SHARES),
        _windows(distances, per_batch, num_batches),
    )


def _windows(distances: Int64Array, per_batch: float, num_batches: int) -> tuple[WindowNeed, ...]:
    total = int(distances.sum())
    if not total:
        return ()
    longest = int(np.flatnonzero(distances)[-1])
    lengths = np.unique(np.round(np.geomspace(1, min(longest, MAX_DISTANCE - 1), CURVE_POINTS)).astype(np.int64))
    shares = np.cumsum(distances)[lengths] / total
    rows = per_batch + _waiting(distances)[lengths] / max(1, num_batches)
    return tuple(map(WindowNeed, shares.tolist(), lengths.tolist(), np.round(rows).astype(np.int64).tolist()))


def _waiting(distances: Int64Array) -> Int64Array:
    """Return for how many batches rows wait in a cache for uses that are at most 0, 1, 2, ... batches away.

    A row that is used again d batches later is in a cache for d batches, and else for one.
    """
    waiting: Int64Array = np.cumsum(distances * np.maximum(0, np.arange(len(distances)) - 1))
    return waiting


def _need(distances: Int64Array, share: float, per_batch: float, num_batches: int) -> WindowNeed:
    window = _quantile(distances, share)
    waiting = int(_waiting(distances)[MAX_DISTANCE - 1 if window is None else window])
    return WindowNeed(share, window, round(per_batch + waiting / max(1, num_batches)))


def _quantile(distances: Int64Array, share: float) -> int | None:
    """Return the smallest distance that at least this part of all distances do not exceed; None: it is too long.

    Args:
        distances: How often each distance occurs, int64, shape (MAX_DISTANCE + 1,).
        share: The part.
    """
    total = int(distances.sum())
    if not total:
        return 0
    found = int(np.searchsorted(np.cumsum(distances), share * total))
    return None if found >= MAX_DISTANCE else found


def _hot_shares(counts: Int64Array) -> tuple[tuple[float, float], ...]:
    if not len(counts):
        return tuple((share, 0.0) for share in HOT_SHARES)
    falling = np.sort(counts)[::-1]
    cumulative = np.cumsum(falling)
    numbers = [-(-len(falling) * round(1000 * share) // 1000) for share in HOT_SHARES]
    return tuple(
        (share, float(cumulative[number - 1] / cumulative[-1]))
        for share, number in zip(HOT_SHARES, numbers, strict=True)
    )


def _skew(counts: Int64Array) -> tuple[tuple[float, float], ...]:
    if not len(counts):
        return ()
    cumulative = np.cumsum(np.sort(counts)[::-1])
    numbers = np.unique(np.round(np.geomspace(1, len(counts), CURVE_POINTS)).astype(np.int64))
    shares = cumulative[numbers - 1] / cumulative[-1]
    return tuple(zip((numbers / len(counts)).tolist(), shares.tolist(), strict=True))


def _drift(first: ValueCounter, last: ValueCounter) -> tuple[float | None, int]:
    number = min(DRIFT_ROWS, first.num_distinct, last.num_distinct)
    if not number:
        return None, 0
    before, after = (set(counter.frequent(1)[:number].tolist()) for counter in (first, last))
    return 1 - len(before & after) / number, number


def mixed_ids(ids: Int64Array, table: int) -> Int64Array:
    """Return keys, not negative, for any ids of a table; two different ones are hardly ever equal."""
    mixed = (ids.astype(np.uint64) + np.uint64(table)) * np.uint64(0x9E3779B97F4A7C15)
    keys: Int64Array = ((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(1)).astype(np.int64)
    return keys


def _empty(num_places: int) -> tuple[Int64Array, Int64Array, NDArray[np.int32]]:
    last = np.full((len(BATCH_SIZES), num_places), _NO_KEY, dtype=np.int32)
    return np.zeros(num_places, np.int64), np.zeros(num_places, np.int64), last


@compiled
def _use(
    new: Int64Array,
    batches: Int64Array,
    keys: Int64Array,
    counts: Int64Array,
    last: NDArray[np.int32],
    distances: Int64Array,
) -> tuple[int, Int64Array]:
    """Note uses; return how many keys are new, and by batch size how many uses are the first of their batch."""
    num_new = 0
    uniques = np.zeros(len(batches), np.int64)
    longest = distances.shape[1] - 1
    for i in range(len(new)):
        place = place_of(new[i], keys, counts)
        if counts[place] == 0:
            keys[place] = new[i]
            num_new += 1
        counts[place] += 1
        for size in range(len(batches)):
            before = last[size, place]
            if before != batches[size]:
                uniques[size] += 1
                if before >= 0:
                    distances[size, min(longest, batches[size] - before)] += 1
                last[size, place] = np.int32(batches[size])
    return num_new, uniques


@compiled
def _move(
    old_keys: Int64Array,
    old_counts: Int64Array,
    old_last: NDArray[np.int32],
    keys: Int64Array,
    counts: Int64Array,
    last: NDArray[np.int32],
) -> None:
    """Move all keys of a table to a larger, empty one."""
    for i in range(len(old_keys)):
        place = place_of(old_keys[i], keys, counts)
        keys[place] = old_keys[i]
        counts[place] = old_counts[i]
        for size in range(len(old_last)):
            last[size, place] = old_last[size, i]
