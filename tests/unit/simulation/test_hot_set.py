"""The static hot set, counted by hand."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.hot_set import count_hot_hits, hottest, play_hot_set

from .streams import stream_from

SAMPLES = [[0, 1], [0], [2, 0], [1, 3]]


def test_the_most_used_rows_are_hot() -> None:
    assert hottest(np.array([1, 5, 5, 0, 7]), 2).tolist() == [False, True, False, False, True]


def test_each_hot_row_misses_once() -> None:
    accesses = accesses_of(stream_from(SAMPLES), 2, 1)  # batches 0 1 and 0 1 2 3
    assert count_hot_hits(accesses, [1, 2, 4, 9]) == {1: 1, 2: 2, 4: 2, 9: 2}


def test_bytes_of_a_tiny_stream() -> None:
    """Rows 0 and 1 are hot. Trainer 0 uses 0 1, then 2 0; trainer 1 uses 0, then 1 3."""
    traffic = play_hot_set(accesses_of(stream_from(SAMPLES), 2, 2), 2, num_servers=1, row_bytes=100)
    assert (traffic.num_local, traffic.num_pairs) == (5, 7)
    assert (traffic.rows_fetched, traffic.rows_written) == (2, 2)
    assert traffic.rows_exchanged == 2 * 4  # two hot rows in each batch, of one other trainer, there and back
    ring = 2 * 1 / 2 * 100 * 2  # both hot rows of a batch
    assert traffic.critical.received.tolist() == [[ring, ring], [ring + 100, ring + 100]]
    assert traffic.critical.sent.tolist() == [[ring, ring], [ring + 116, ring + 116]]
    assert traffic.server_bytes.tolist() == [0, 232]
