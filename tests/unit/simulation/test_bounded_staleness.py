"""Bounded staleness: equal to a twin of a few lines; bounds are kept; with s = 0 it moves what no cache moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.bounded_staleness import LIGHT_LFU_LISTS, play_bounded_staleness
from bagpipe_hpc.simulation.no_cache import play_no_cache
from bagpipe_hpc.simulation.traffic import Traffic

from .streams import Samples, samples_of_few_keys, stream_from, zipf


@dataclass
class Row:
    """A cached row: the updates that its value contains, those held back, uses, and its latest use."""

    contains: int
    pending: int = 0
    since_fetch: int = 0
    used: int = 0
    latest: int = 0


@dataclass
class Twin:
    """The rules, row by row."""

    shares: list[list[list[int]]]
    staleness: int
    cache_rows: int
    lru: bool
    fetched: int = 0
    pushed: int = 0
    local: int = 0
    missing: list[int] = field(default_factory=list)

    def play(self) -> None:
        self.caches: list[dict[int, Row]] = [{} for _ in self.shares[0]]
        self.server: dict[int, int] = {}
        self.made: dict[int, int] = {}
        clock = 0
        for batch in self.shares:
            for t, share in enumerate(batch):
                for key in share:
                    clock += 1
                    self._read(t, key, clock)
            for t, share in enumerate(batch):
                for key in share:
                    self._update(t, key)
        for t, cache in enumerate(self.caches):
            for key in cache:
                self._push(t, key)

    def _read(self, t: int, key: int, clock: int) -> None:
        cache, server = self.caches[t], self.server.setdefault(key, 0)
        row = cache.get(key)
        if row and row.since_fetch <= self.staleness and server - row.contains <= self.staleness:
            self.local += 1
        else:
            if row:
                self._push(t, key)
            self.fetched += 1
            row = cache.setdefault(key, Row(0, used=-1))
            row.contains, row.since_fetch = self.server[key], 0
        row.used, row.latest = min(row.used + 1, LIGHT_LFU_LISTS - 1), clock
        self.missing.append(self.made.get(key, 0) - row.contains - row.pending)
        if len(cache) > self.cache_rows:
            victim = min(cache, key=lambda each: (0 if self.lru else cache[each].used, cache[each].latest))
            self._push(t, victim)
            del cache[victim]

    def _update(self, t: int, key: int) -> None:
        self.made[key] = self.made.get(key, 0) + 1
        row = self.caches[t].get(key)
        if row is None:
            self.pushed += 1
            self.server[key] += 1
            return
        row.pending += 1
        row.since_fetch += 1
        if row.pending > self.staleness:
            self._push(t, key)

    def _push(self, t: int, key: int) -> None:
        row = self.caches[t][key]
        if row.pending:
            self.pushed += 1
            self.server[key] += row.pending
            row.contains += row.pending
            row.pending = 0


def played(
    samples: Samples, batch_size: int, trainers: int, **rules: int | bool
) -> tuple[Traffic, list[list[list[int]]]]:
    accesses = accesses_of(stream_from(samples), batch_size, trainers)
    ends = accesses.pair_ends
    parts = [accesses.pairs[ends[n] : ends[n + 1]].tolist() for n in range(len(ends) - 1)]
    traffic = play_bounded_staleness(accesses, num_servers=1, row_bytes=4, **rules)  # type: ignore[arg-type]
    return traffic, [parts[n : n + trainers] for n in range(0, len(parts), trainers)]


@given(samples_of_few_keys, st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 7), st.booleans())
def test_it_equals_a_twin(
    samples: Samples, batch_size: int, trainers: int, staleness: int, cache_rows: int, lru: bool
) -> None:
    traffic, shares = played(samples, batch_size, trainers, staleness=staleness, cache_rows=cache_rows, lru=lru)
    twin = Twin(shares, staleness, cache_rows, lru)
    twin.play()
    assert (traffic.rows_fetched, traffic.rows_written) == (twin.fetched, twin.pushed)
    assert traffic.num_local == twin.local
    assert traffic.staleness.largest == max(twin.missing)
    assert traffic.staleness.mean == pytest.approx(np.mean(twin.missing))


@pytest.mark.parametrize("staleness", [0, 1, 10, 100])
@pytest.mark.parametrize("cache_rows", [50, 10_000])
def test_bounds_are_never_exceeded(staleness: int, cache_rows: int) -> None:
    accesses = accesses_of(zipf(30_000, 500, 1.1, seed=5), 64, 4)
    traffic = play_bounded_staleness(accesses, staleness=staleness, cache_rows=cache_rows, num_servers=2, row_bytes=8)
    seen = traffic.staleness
    assert seen.largest_lag <= staleness
    assert seen.largest_pending <= staleness + 1  # the last one is sent at once
    assert seen.largest <= 4 * staleness  # what the server has, and what three others hold back
    assert traffic.cache_rows is not None
    assert traffic.cache_rows <= cache_rows


@pytest.mark.parametrize("trainers", [1, 3])
def test_without_staleness_it_moves_what_no_cache_moves(trainers: int) -> None:
    accesses = accesses_of(zipf(5_000, 300, 1.0, seed=6), 30, trainers)
    cached = play_bounded_staleness(accesses, staleness=0, cache_rows=100, num_servers=2, row_bytes=8)
    plain = play_no_cache(accesses, 2, 8)
    assert (cached.rows_fetched, cached.rows_written) == (plain.rows_fetched, plain.rows_written)
    assert cached.num_local == 0
    assert cached.staleness.largest == 0
    np.testing.assert_array_equal(cached.critical.received - 16 * accesses.pair_counts, plain.critical.received)


def test_bytes_of_a_tiny_stream() -> None:
    """Trainer 0 reads key 0 twice, trainer 1 key 1, then key 0. Rows have 100 bytes, ids and clocks 8 each."""
    traffic, _ = played([[0], [1], [0], [0]], 2, 2, staleness=5, cache_rows=9)
    assert traffic.rows_fetched == 3
    assert traffic.rows_written == 3  # at the end
    assert traffic.num_local == 1
    assert traffic.critical.received.tolist() == [[20, 20], [0, 20]]
    assert traffic.critical.sent.tolist() == [[16, 16], [16 + 12, 16 + 24]]
