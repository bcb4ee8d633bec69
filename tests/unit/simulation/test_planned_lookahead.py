"""What the planner moves: never less than exact lookahead, and the same with room for all rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.simulation.accesses import Accesses, accesses_of
from bagpipe_hpc.simulation.exact_lookahead import count_hits
from bagpipe_hpc.simulation.planned_lookahead import play_lookahead
from bagpipe_hpc.simulation.stream import KeyStream
from bagpipe_hpc.simulation.traffic import Traffic

from .streams import Samples, samples_of_few_keys, stream_from, zipf


def play(stream: KeyStream, accesses: Accesses, window: int, cache_rows: int, row_bytes: int = 1) -> Traffic:
    return play_lookahead(
        stream,
        accesses,
        window=window,
        prefetch_depth=1,
        cache_rows=cache_rows,
        num_servers=2,
        row_bytes=row_bytes,
    )


@settings(max_examples=10, deadline=None)
@given(samples_of_few_keys, st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_with_room_it_fetches_what_exact_lookahead_fetches(
    samples: Samples, batch_size: int, trainers: int, window: int
) -> None:
    stream = stream_from(samples)
    accesses = accesses_of(stream, batch_size, trainers)
    traffic = play(stream, accesses, window, 10_000)
    fetched = len(accesses.entries) - count_hits(accesses, window, 10_000).sum()
    assert (traffic.rows_fetched, traffic.rows_written) == (fetched, fetched)
    # A push and a gradient for each user but one, or for each user if the owner is none of them.
    assert 2 * (len(accesses.pairs) - len(accesses.entries)) <= traffic.rows_exchanged <= 2 * len(accesses.pairs)
    sent, received = (getattr(traffic.critical + traffic.late, name).sum() for name in ("sent", "received"))
    assert sent == received == traffic.rows_fetched + traffic.rows_exchanged


def test_a_bounded_cache_fetches_no_less_than_exact_lookahead() -> None:
    stream = zipf(20_000, 2_000, 1.0, seed=4)
    accesses = accesses_of(stream, 100, 1)
    previous = 0
    for cache_rows in (300, 500, 900):
        hits = len(accesses.entries) - play(stream, accesses, 50, cache_rows).rows_fetched
        assert previous < hits <= count_hits(accesses, 50, cache_rows).sum()
        previous = hits


def test_a_cache_that_is_too_small() -> None:
    stream = stream_from([[0, 1, 2, 3], [4, 5, 6, 7]])
    with pytest.raises(CacheTooSmallError):
        play(stream, accesses_of(stream, 1, 1), 1, 5)


def test_progress_is_noted() -> None:
    stream = stream_from([[0], [1], [0]])
    noted: list[int] = []
    play_lookahead(
        stream, accesses_of(stream, 1, 1), window=2, prefetch_depth=1, cache_rows=9, num_servers=1, row_bytes=1,
        note=noted.append,
    )  # fmt: skip
    assert noted == [0, 1, 2]
