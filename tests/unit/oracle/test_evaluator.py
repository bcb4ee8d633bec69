"""Predictions come together, and early stopping waits for the results it depends on and no others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import EvaluationConfig
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.data.time_windows import TimeWindow
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.oracle.evaluation import EvaluatedWindow, Evaluation, Timetable
from bagpipe_hpc.oracle.evaluator import Evaluator
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics, Targets, evaluate_predictions
from bagpipe_hpc.protocol.messages import Predictions

PATIENT = EvaluationConfig(every=2, early_stopping_patience=1, min_improvement=10.0)
WAIT_SECONDS = 20.0
CLICKS = Schema(tables=(TableSchema(name="item", num_embeddings=1),))


def batch(*, read_only: bool, size: int = 5) -> Batch:
    random = np.random.default_rng(size)
    labels = (random.random(size) < 0.5).astype(np.float32)
    return Batch(labels, np.zeros((size, 0), np.float32), np.zeros((size, 1), dtype=np.int64), read_only=read_only)


@contextmanager
def two_trainers(config: EvaluationConfig, timetable: Timetable, *history: Evaluation) -> Iterator[Evaluator]:
    evaluator = Evaluator(config, timetable, 2, CLICKS, history)
    yield evaluator
    evaluator.give_up()
    evaluator.close()


def results_of(evaluator: Evaluator, number: int) -> list[Evaluation]:
    results: list[Evaluation] = []
    while len(results) < number:
        results += evaluator.finished()
    return results


def play(evaluator: Evaluator, batches: list[Batch], first_iteration: int = 0) -> dict[int, np.ndarray]:
    """Predict what the plans ask for; the second trainer answers when the first has answered everything."""
    planner = Planner(num_embeddings=(1,), num_trainers=2, num_servers=1, window=0, prefetch_depth=0, cache_rows=9,
                      first_iteration=first_iteration)  # fmt: skip
    plans = [plan for plan in planner.plans(batches) if plan.read_only]
    numbers = [np.arange(len(plan.samples.labels), dtype=np.float32) for plan in plans]
    logits = {plan.stream_position: n - plan.stream_position for plan, n in zip(plans, numbers, strict=True)}
    for plan in plans:
        evaluator.expect(plan)
    for trainer in range(2):
        for plan in plans:
            assert not evaluator.is_idle()
            share = slice(plan.samples.sample_ends[trainer], plan.samples.sample_ends[trainer + 1])
            evaluator.take(Predictions(trainer, logits[plan.stream_position][share]))
    return logits


TRAIN, EVALUATE = batch(read_only=False), [batch(read_only=True, size=7), batch(read_only=True, size=1)]


def test_predictions_of_all_trainers_and_batches_are_judged_together() -> None:
    stream = [TRAIN, TRAIN, *EVALUATE, TRAIN, *EVALUATE]
    with two_trainers(EvaluationConfig(every=2), Timetable(0, 3, 2, 2)) as evaluator:
        logits = play(evaluator, stream)
        first, last = results_of(evaluator, 2)
        assert evaluator.is_idle()
        assert (evaluator.num_done, evaluator.last) == (2, last)
    labels = np.concatenate([piece.labels for piece in EVALUATE])
    assert first == Evaluation(2, evaluate_predictions(np.concatenate([logits[2], logits[3]]), Targets(labels), CLICKS))
    assert last == Evaluation(3, evaluate_predictions(np.concatenate([logits[5], logits[6]]), Targets(labels), CLICKS))


def test_windows_have_their_own_sizes_and_are_never_the_best() -> None:
    windows = {0: EvaluatedWindow(TimeWindow(5, 10, 0, 8), 2), 1: EvaluatedWindow(TimeWindow(10, 15, 8, 9), 1)}
    stream = [*EVALUATE, TRAIN, EVALUATE[1], TRAIN, EVALUATE[0]]
    with two_trainers(EvaluationConfig(), Timetable(0, 2, 1, None, 7, windows)) as evaluator:
        assert all(map(evaluator.admits, stream))
        play(evaluator, stream)
        results = results_of(evaluator, 3)
        assert evaluator.is_idle()
        totals = evaluator.totals()
        assert evaluator.last is evaluator.best is results[2]
    assert [(each.iteration, each.window, each.result.num_samples) for each in results] == [
        (0, (5, 10), 8),
        (1, (10, 15), 1),
        (2, None, 7),
    ]
    assert totals["number"] == 3
    assert totals["windows"]["number"] == 2
    losses = [each.result.judged.log_loss for each in results]
    assert totals["windows"]["log_loss"] == pytest.approx((8 * losses[0] + losses[1]) / 9)  # type: ignore[operator]


def test_an_evaluation_that_was_cut_short_has_no_result() -> None:
    with two_trainers(EvaluationConfig(every=1), Timetable(0, 3, 2, 1)) as evaluator:
        play(evaluator, [TRAIN, EVALUATE[0]])
        assert evaluator.is_idle()
        assert list(evaluator.finished()) == []
        assert not evaluator.are_known_before(2)
        assert evaluator.are_known_before(1)


def test_training_ends_one_evaluation_after_patience() -> None:
    """Evaluator after 2, 4 and 6 iterations; the second improves nothing, which is acted upon after the third."""
    with two_trainers(PATIENT, Timetable(0, 20, 2, 2)) as evaluator:
        stream = [TRAIN, TRAIN, *EVALUATE] * 3
        assert all(evaluator.admits(piece) for piece in stream[:8])  # to the second evaluation
        admitted: list[bool] = []
        gate = threading.Thread(target=lambda: admitted.extend(map(evaluator.admits, [*stream[8:], TRAIN])))
        gate.start()
        gate.join(0.1)
        assert gate.is_alive()  # result 1 is due before training goes on behind evaluation 2
        play(evaluator, stream)
        results_of(evaluator, 3)
        gate.join(WAIT_SECONDS)
        assert admitted == [True] * 4 + [False]
        assert evaluator.stopped_at == 6


def test_whoever_stops_the_job_does_not_wait_for_results() -> None:
    with two_trainers(PATIENT, Timetable(0, 20, 2, 2)) as evaluator:
        stream = [TRAIN, TRAIN, *EVALUATE] * 2
        assert all(map(evaluator.admits, stream))
        evaluator.give_up()
        assert not evaluator.admits(TRAIN)
        assert evaluator.stopped_at is None


@pytest.mark.parametrize(("aucs", "goes_on"), [([0.5], True), ([0.5, 0.5], False), ([], True)])
def test_earlier_starts_count(aucs: list[float], goes_on: bool) -> None:
    """A start from iteration 6 evaluates first; what it knows of before decides."""
    history = [
        Evaluation(2 * (k + 1), EvaluationResult(5, LabelMetrics(auc, 1.0, None, None))) for k, auc in enumerate(aucs)
    ]
    with two_trainers(PATIENT, Timetable(6, 20, 2, 2), *history) as evaluator:
        assert all(map(evaluator.admits, EVALUATE))
        assert evaluator.admits(TRAIN) is goes_on
        assert evaluator.stopped_at == (None if goes_on else 6)


def test_which_checkpoints_may_be_the_best() -> None:
    history = [Evaluation(2, EvaluationResult(5, LabelMetrics(0.75, 1.0, None, None)))]
    with two_trainers(EvaluationConfig(every=2), Timetable(3, 20, 2, 2), *history) as evaluator:
        assert [i for i in range(9) if evaluator.may_be_best(i)] == [2, 4, 6, 8]
        play(evaluator, [TRAIN, *EVALUATE], first_iteration=3)
        (result,) = results_of(evaluator, 1)
        assert result.iteration == 4
        assert result.result.judged.auc != 0.75
        assert evaluator.best is not None
        assert [i for i in range(9) if evaluator.may_be_best(i)] == [evaluator.best.iteration, 6, 8]
