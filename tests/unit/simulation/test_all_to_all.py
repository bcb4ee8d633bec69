"""Sharded tables with all-to-all, counted by hand. Key k is on trainer k mod 2."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.simulation.accesses import accesses_of
from bagpipe_hpc.simulation.all_to_all import play_all_to_all

from .streams import stream_from, zipf

SAMPLES = [[0, 1, 1], [0, 2], [3, 3], [3, 0]]


def test_one_vector_per_id() -> None:
    stream = stream_from(SAMPLES)
    traffic = play_all_to_all(stream, accesses_of(stream, 4, 2), 100, unique=False)
    # Trainer 0 has the ids 0 1 1 0 2 and asks trainer 1 for two; trainer 1 has 3 3 3 0 and asks trainer 0 for one.
    assert traffic.critical.received.tolist() == traffic.critical.sent.tolist() == [[300, 300]]
    assert traffic.late.sent.tolist() == [[16, 8]]
    assert traffic.late.received.tolist() == [[8, 16]]
    assert traffic.rows_exchanged == 6  # three vectors, three gradients
    assert traffic.num_local == 3  # rows 0 and 2, row 3


def test_one_vector_per_row() -> None:
    stream = stream_from(SAMPLES)
    traffic = play_all_to_all(stream, accesses_of(stream, 4, 2), 100, unique=True)
    assert traffic.critical.received.tolist() == [[200, 200]]
    assert (traffic.rows_exchanged, traffic.num_local) == (4, 3)


def test_what_is_asked_is_served() -> None:
    stream = zipf(3_000, 100, 1.0, seed=2)
    for unique in (False, True):
        traffic = play_all_to_all(stream, accesses_of(stream, 96, 5), 1, unique=unique)
        assert traffic.critical.received.sum() == traffic.critical.sent.sum() == traffic.rows_exchanged
        np.testing.assert_array_equal(traffic.late.sent.sum(axis=1), traffic.late.received.sum(axis=1))


def test_one_trainer_moves_nothing() -> None:
    stream = stream_from(SAMPLES)
    traffic = play_all_to_all(stream, accesses_of(stream, 2, 1), 100, unique=False)
    assert (traffic.rows_moved, traffic.bytes_per_trainer, traffic.local_ratio) == (0, 0, 1)
