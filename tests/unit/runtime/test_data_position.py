"""Iterations and samples, from the beginning and from anywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.runtime.data_position import BEGINNING, Course, Position


def test_the_whole_course() -> None:
    course = Course(BEGINNING, num_samples=10, batch_size=4, epochs=2)
    assert course.end_iteration == 6
    assert [course.position(i) for i in range(7)] == [
        Position(0, 0, 0), Position(1, 0, 4), Position(2, 0, 8),
        Position(3, 1, 0), Position(4, 1, 4), Position(5, 1, 8), Position(6, 2, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(("limit", "end"), [(None, 6), (4, 4), (99, 6)])
def test_a_limit(limit: int | None, end: int) -> None:
    assert Course(BEGINNING, 10, 4, 2, limit).end_iteration == end


def test_nothing_is_left() -> None:
    assert Course(Position(6, 2, 0), 10, 4, 2).end_iteration == 6
    assert Course(Position(6, 2, 0), 10, 4, 3).end_iteration == 9
    assert Course(Position(6, 2, 0), 10, 4, 3, max_iterations=5).end_iteration == 6


@given(num_samples=st.integers(1, 30), batch_size=st.integers(1, 12), epochs=st.integers(1, 4), cut=st.integers(0, 40))
def test_going_on_is_the_same_course(num_samples: int, batch_size: int, epochs: int, cut: int) -> None:
    whole = Course(BEGINNING, num_samples, batch_size, epochs)
    cut = min(cut, whole.end_iteration)
    rest = Course(whole.position(cut), num_samples, batch_size, epochs)
    assert rest.end_iteration == whole.end_iteration
    iterations = range(cut, whole.end_iteration + 1)
    assert [rest.position(i) for i in iterations] == [whole.position(i) for i in iterations]


def test_another_batch_size_goes_on_at_the_same_sample() -> None:
    course = Course(Position(2, 0, 8), num_samples=20, batch_size=5, epochs=2)
    assert course.end_iteration == 2 + 3 + 4
    assert course.position(4) == Position(4, 0, 18)
    assert course.position(5) == Position(5, 1, 0)
