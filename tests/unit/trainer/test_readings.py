"""Readings in bounded memory against all readings."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.trainer import readings
from bagpipe_hpc.trainer.readings import Readings


def added(clock: list[int]) -> Readings:
    taken = Readings()
    for nanoseconds in clock:
        taken.add(nanoseconds)
    return taken


@given(steps=st.lists(st.integers(0, 10**12), max_size=70), capacity=st.sampled_from([2, 4, 16]))
def test_a_part_of_all_readings_at_even_distances(steps: list[int], capacity: int) -> None:
    clock = np.cumsum(steps, dtype=np.int64).tolist()
    with mock.patch.object(readings, "CAPACITY", capacity):
        taken = added(clock)
    found = taken.step_seconds()
    assert len(found) < capacity
    stride = 1
    while len(clock) > capacity * stride:
        stride *= 2
    np.testing.assert_allclose(found, np.diff(clock[::stride]) / stride / 1e9)


def test_a_job_that_fits_is_kept_whole() -> None:
    assert added([5, 10**9 + 5, 3 * 10**9 + 5]).step_seconds().tolist() == [1.0, 2.0]
