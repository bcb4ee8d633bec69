"""How long waiting threads sleep between polls."""

from __future__ import annotations

import itertools

import pytest

from bagpipe_hpc.polling import pause_after, wait_until, working_ns


@pytest.mark.parametrize(
    ("waited", "pause"),
    [(0.0, 20e-6), (0.6e-3, 120e-6), (2e-3, 250e-6), (16e-3, 250e-6), (64e-3, 1e-3), (0.16, 2.5e-3), (60.0, 10e-3)],
)
def test_sleeps_grow_with_the_wait(waited: float, pause: float) -> None:
    assert pause_after(waited, serves=False) == pytest.approx(pause)


@pytest.mark.parametrize(("waited", "pause"), [(0.0, 20e-6), (0.99, 250e-6), (1.0, 10e-3)])
def test_a_thread_that_serves_others_sleeps_shortly_for_a_second(waited: float, pause: float) -> None:
    assert pause_after(waited, serves=True) == pytest.approx(pause)


def test_polling_is_not_work() -> None:
    polls = itertools.count()
    before = working_ns()
    wait_until(lambda: sum(range(100_000)) > 0 and next(polls) == 100)
    assert working_ns() - before < 20e6  # the polls compute for about 100 ms
