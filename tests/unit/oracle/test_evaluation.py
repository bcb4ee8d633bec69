"""When a job evaluates, and what follows from the results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.oracle.evaluation import Evaluation, Timetable, best_of, num_without_improvement
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


def test_lines_come_back() -> None:
    for evaluation in evaluations(0.5, None):
        assert Evaluation.from_line(evaluation.to_line()) == evaluation


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
