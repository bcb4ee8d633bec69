"""The oracle expects as many figures as ranks tell it."""

from __future__ import annotations

from itertools import pairwise

from bagpipe_hpc.protocol.figure_schedule import is_due, num_due


def test_the_number_is_that_of_the_iterations_that_are_due() -> None:
    number = 0
    for count in range(20_000):
        number += is_due(count)
        assert num_due(count) == number, count


def test_long_jobs_have_few_figures() -> None:
    due = [count for count in range(20_000) if is_due(count)]
    assert due[:3] == [20, 40, 60]
    distances = [after - before for before, after in pairwise(due)]
    assert distances == sorted(distances)
    assert num_due(1_000_000) < 600
