"""When a job evaluates, and what follows from the results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.data.time_windows import TimeWindow
from bagpipe_hpc.oracle.evaluation import (
    EvaluatedWindow,
    Evaluation,
    Timetable,
    best_of,
    mean_metrics,
    num_without_improvement,
)
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics


def evaluations(*aucs: float | None) -> list[Evaluation]:
    return [
        Evaluation(10 * (k + 1), EvaluationResult(5, LabelMetrics(auc, 1.0 - (auc or 0), None, None)))
        for k, auc in enumerate(aucs)
    ]


@pytest.mark.parametrize(
    ("timetable", "due"),
    [
        (Timetable(0, 10, 2), [10]),
        (Timetable(0, 10, 2, every=4), [4, 8, 10]),
        (Timetable(0, 8, 2, every=4), [4, 8]),
        (Timetable(4, 10, 2, every=4), [4, 8, 10]),
        (Timetable(5, 10, 2, every=4), [8, 10]),
        (Timetable(8, 8, 2, every=4), [8]),
        (Timetable(0, 3, 2, every=4), [3]),
        (Timetable(0, 10, 0, every=4), []),
    ],
)
def test_what_is_due(timetable: Timetable, due: list[int]) -> None:
    assert [i for i in range(20) if timetable.is_due(i)] == due
    assert timetable.num_evaluations == len(due)


@given(start=st.integers(0, 30), length=st.integers(0, 30), every=st.none() | st.integers(1, 12), at=st.integers(0, 70))
def test_the_last_one_before(start: int, length: int, every: int | None, at: int) -> None:
    timetable = Timetable(start, start + length, 3, every)
    due = [i for i in range(at) if timetable.is_due(i) and i < timetable.end]
    assert timetable.last_before(at) == (due[-1] if due else None)
    assert timetable.num_evaluations == sum(map(timetable.is_due, range(100)))


@given(
    iterations=st.sets(st.integers(0, 29), max_size=8),
    start=st.integers(0, 30),
    split=st.sampled_from([0, 3]),
    at=st.integers(0, 40),
)
def test_windows_are_due_before_training_on_them(iterations: set[int], start: int, split: int, at: int) -> None:
    windows = {i: EvaluatedWindow(TimeWindow(0, 5, 0, 10 + i), 2 + i) for i in iterations if i >= start}
    timetable = Timetable(start, 30, split, None, 7, windows)
    due = [*sorted(windows), *([30] if split else [])]
    assert [i for i in range(40) if timetable.is_due(i)] == due
    assert timetable.num_evaluations == len(due)
    assert timetable.num_batches_of_all == sum(timetable.num_batches_at(i) for i in due)
    assert [timetable.num_samples_at(i) for i in due] == [10 + i if i in windows else 7 for i in due]
    before = [i for i in sorted(windows) if i < at]
    assert timetable.last_before(at) == (before[-1] if before else None)


def test_the_mean_of_windows() -> None:
    results = [
        EvaluationResult(1, LabelMetrics(0.5, 1.0, None, None)),
        EvaluationResult(3, LabelMetrics(0.75, 2.0, None, None)),
        EvaluationResult(4, LabelMetrics(None, 0.25, None, None)),
    ]
    assert mean_metrics(results) == {"auc": 0.6875, "log_loss": 1.0}
    assert mean_metrics([]) == {}


def test_lines_come_back() -> None:
    for evaluation in [*evaluations(0.5, None), Evaluation(0, EvaluationResult(3), (-5, 0))]:
        assert Evaluation.from_line(evaluation.to_line()) == evaluation


@pytest.mark.parametrize("window", ["[1]", "[1, 2.5]", "[1, true]", '"x"', "{}", "[1, 2, 3]"])
def test_windows_that_are_none(window: str) -> None:
    line = Evaluation(3, EvaluationResult(3), (1, 2)).to_line().replace("[1, 2]", window)
    with pytest.raises(TypeError, match="the window of an evaluation must be two times"):
        Evaluation.from_line(line)


def test_the_best_of_equals_is_the_first() -> None:
    found = evaluations(0.5, 0.75, 0.75, None, 0.25)
    assert best_of(found, "auc") is found[1]
    assert best_of(found, "log_loss") is found[1]
    assert best_of(found[3:4], "auc") is found[3]
    assert best_of([], "auc") is None


@pytest.mark.parametrize(
    ("aucs", "min_improvement", "expected"),
    [
        ([], 0.0, 0),
        ([0.5], 0.0, 0),
        ([0.5, 0.625, 0.75], 0.0, 0),
        ([0.5, 0.5], 0.0, 1),
        ([0.75, 0.5, 0.625], 0.0, 2),
        ([0.75, 0.5, 0.875], 0.0, 0),
        ([0.5, 0.625, 0.75, 0.875], 0.25, 1),  # what counts is the gain over the last that improved: 0.5, 0.75
        ([0.5, 0.625, 0.6875], 0.25, 2),
        ([0.5, 0.75], 0.25, 0),
        ([None, None], 0.0, 2),
        ([None, 0.5], 9.0, 0),
        ([0.5, None], 0.0, 1),
    ],
)
def test_patience(aucs: list[float | None], min_improvement: float, expected: int) -> None:
    assert num_without_improvement(evaluations(*aucs), "auc", min_improvement) == expected


def test_less_log_loss_is_better() -> None:
    falling = [
        Evaluation(i, EvaluationResult(5, LabelMetrics(0.5, loss, None, None)))
        for i, loss in enumerate([0.75, 0.5, 0.625])
    ]
    assert best_of(falling, "log_loss") is falling[1]
    assert num_without_improvement(falling, "log_loss", 0.0) == 1
    assert num_without_improvement(falling, "auc", 0.0) == 2
