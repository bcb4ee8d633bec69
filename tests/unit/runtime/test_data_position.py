"""Iterations and samples, from the beginning and from anywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.runtime.data_position import BEGINNING, DataPosition, TrainingRange


def test_a_whole_job() -> None:
    training_range = TrainingRange(BEGINNING, num_samples=10, batch_size=4, epochs=2)
    assert training_range.end == 6
    assert [training_range.position(i) for i in range(7)] == [
        DataPosition(0, 0, 0), DataPosition(1, 0, 4), DataPosition(2, 0, 8),
        DataPosition(3, 1, 0), DataPosition(4, 1, 4), DataPosition(5, 1, 8), DataPosition(6, 2, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(("limit", "end"), [(None, 6), (4, 4), (99, 6)])
def test_a_limit(limit: int | None, end: int) -> None:
    assert TrainingRange(BEGINNING, 10, 4, 2, limit).end == end


def test_nothing_is_left() -> None:
    finished = TrainingRange(DataPosition(6, 2, 0), 10, 4, 2)
    assert finished.end == 6
    assert "nothing is left to train after 6 iterations; to go on" in finished.said_of_nothing_left()
    assert TrainingRange(DataPosition(5, 1, 8), 10, 4, 2).said_of_nothing_left() == ""
    assert TrainingRange(DataPosition(6, 2, 0), 10, 4, 3).end == 9
    assert TrainingRange(DataPosition(6, 2, 0), 10, 4, 3, max_iterations=5).end == 6


@given(num_samples=st.integers(1, 30), batch_size=st.integers(1, 12), epochs=st.integers(1, 4), cut=st.integers(0, 40))
def test_going_on_is_the_same_range(num_samples: int, batch_size: int, epochs: int, cut: int) -> None:
    whole = TrainingRange(BEGINNING, num_samples, batch_size, epochs)
    cut = min(cut, whole.end)
    rest = TrainingRange(whole.position(cut), num_samples, batch_size, epochs)
    assert rest.end == whole.end
    iterations = range(cut, whole.end + 1)
    assert [rest.position(i) for i in iterations] == [whole.position(i) for i in iterations]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    batch_size=st.integers(1, 5),
    epochs=st.integers(1, 3),
    cut=st.integers(0, 60),
)
def test_batches_end_at_all_ends(sizes: list[int], batch_size: int, epochs: int, cut: int) -> None:
    ends = tuple(sum(sizes[: number + 1]) for number in range(len(sizes)))
    starts = [0, *ends[:-1]]
    whole = TrainingRange(BEGINNING, ends[-1], batch_size, epochs, None, ends)
    firsts = [first for start, end in zip(starts, ends, strict=True) for first in range(start, end, batch_size)]
    expected = [(epoch, first) for epoch in range(epochs) for first in firsts]
    assert whole.end == len(expected)
    found = [whole.position(i) for i in range(whole.end + 1)]
    assert [(position.epoch, position.sample) for position in found] == [*expected, (epochs, 0)]
    assert [whole.num_trained_at(start) for start in starts] == [firsts.index(start) for start in starts]
    assert whole.stretches(0) == list(zip(starts, ends, strict=True))

    start = found[min(cut, whole.end)]
    rest = TrainingRange(start, ends[-1], batch_size, epochs, None, ends)
    assert rest.end == whole.end
    assert [rest.position(i) for i in range(start.num_trained, whole.end + 1)] == found[start.num_trained :]
    if start.epoch == 0:
        there = [each for each in starts if each >= start.sample]
        assert [rest.num_trained_at(each) for each in there] == [whole.num_trained_at(each) for each in there]
        assert [rest.num_trained_at(each) for each in starts if each < start.sample] == [None] * (
            len(starts) - len(there)
        )
        assert rest.stretches(0)[0][0] == start.sample


def test_another_batch_size_goes_on_at_the_same_sample() -> None:
    training_range = TrainingRange(DataPosition(2, 0, 8), num_samples=20, batch_size=5, epochs=2)
    assert training_range.end == 2 + 3 + 4
    assert training_range.position(4) == DataPosition(4, 0, 18)
    assert training_range.position(5) == DataPosition(5, 1, 0)
