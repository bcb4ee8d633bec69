"""When a budget of time is spent."""

from __future__ import annotations

from bagpipe_hpc.oracle.budget import Budget


def test_a_budget_leaves_time_for_a_checkpoint() -> None:
    budget = Budget(1000.0, start=50.0)
    assert not budget.is_spent(1030.0, iteration_seconds=0.1, write_seconds=0.0)
    assert budget.is_spent(1034.0, iteration_seconds=0.1, write_seconds=0.0)
    assert budget.is_spent(850.0, iteration_seconds=0.1, write_seconds=100.0)
    assert not budget.is_spent(549.0, iteration_seconds=0.1, write_seconds=1e6), "half of it is for training"
    assert not Budget(None, start=0.0).is_spent(1e9, 1.0, 1.0)
