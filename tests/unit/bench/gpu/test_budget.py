"""The time for everything, divided over cells."""

from __future__ import annotations

import pytest

from bagpipe_hpc.bench.gpu.budget import LEAST_SECONDS, TimeBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_that_a_cell_leaves_is_for_the_next_ones() -> None:
    clock = Clock()
    budget = TimeBudget(90.0, clock)
    budget.begin_cell(3)
    assert budget.left_of_cell == pytest.approx(30.0)
    clock.now += 10.0
    budget.begin_cell(2)
    assert (budget.left, budget.left_of_cell, budget.used) == pytest.approx((80.0, 40.0, 10.0))
    clock.now += 100.0
    assert (budget.left, budget.left_of_cell) == pytest.approx((0.0, -60.0))


def test_a_run_begins_only_if_it_can_end() -> None:
    clock = Clock()
    budget = TimeBudget(60.0, clock)
    assert budget.has_time_for("job")
    budget.note("job", 50.0)
    clock.now += 20.0
    assert not budget.has_time_for("job")
    assert budget.has_time_for("resident")
    clock.now += 40.0
    assert not budget.has_time_for("resident")


def test_a_run_that_hangs_does_not_take_all_time() -> None:
    budget = TimeBudget(1000.0, Clock())
    budget.begin_cell(10)
    assert budget.limit == pytest.approx(200.0)
    budget.begin_cell(1000)
    assert budget.limit == LEAST_SECONDS
    assert TimeBudget(0.0, Clock()).left == 0.0
