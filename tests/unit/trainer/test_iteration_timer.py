"""The time of each iteration, and readings in bounded memory against all readings."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.trainer import iteration_timer
from bagpipe_hpc.trainer.iteration_timer import IterationTimer, _Readings


def test_what_counts_is_kept_apart() -> None:
    readings = iter([5, 7, 8, 12, 20])
    timer = IterationTimer(lambda: next(readings) * 10**9)
    for counts in (True, True, False, True, False):  # the first only begins
        timer.end_iteration(counts=counts)
    assert timer.seconds == 6.0
    assert timer.iteration_seconds().tolist() == [2.0, 4.0]
    assert timer.other_seconds == 9.0


def added(clock: list[int]) -> _Readings:
    taken = _Readings()
    for nanoseconds in clock:
        taken.add(nanoseconds)
    return taken


@given(steps=st.lists(st.integers(0, 10**12), max_size=70), capacity=st.sampled_from([2, 4, 16]))
def test_a_part_of_all_readings_at_even_distances(steps: list[int], capacity: int) -> None:
    clock = np.cumsum(steps, dtype=np.int64).tolist()
    with mock.patch.object(iteration_timer, "CAPACITY", capacity):
        taken = added(clock)
    found = taken.differences()
    assert len(found) < capacity
    stride = 1
    while len(clock) > capacity * stride:
        stride *= 2
    np.testing.assert_allclose(found, np.diff(clock[::stride]) / stride / 1e9)


def test_a_job_that_fits_is_kept_whole() -> None:
    assert added([5, 10**9 + 5, 3 * 10**9 + 5]).differences().tolist() == [1.0, 2.0]
