"""Evaluation while training: read-only plans in the stream, predictions to the oracle, metrics in a thread of it.

planning threads               oracle                                  trainers
  |                              1 read-only plans of evaluation k ----> | predict
  |                              2 predictions, batch by batch <-------- |
  |                              3 all there: metrics, in a thread
  | 4 before the training plan   | 5 result: evaluations.jsonl, the best checkpoint
  |   behind evaluation k + 1:   |
  |   wait for result k <--------|

**Early stopping.** Training ends after an evaluation, the first one before which patience was exhausted: whether it
does depends on the results before that evaluation and on nothing else (4). So the decision is the same in every run,
nobody waits for metrics while there is something to train on, and the plans of an iteration never have to be taken
back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import EvaluationConfig
from bagpipe_hpc.oracle.evaluation import Evaluation, Timetable, best_of, num_in_vain
from bagpipe_hpc.oracle.metrics import EvaluationResult, evaluate_predictions, save_predictions, without_labels
from bagpipe_hpc.protocol.messages import Predictions
from bagpipe_hpc.protocol.plan import IterationPlan
from bagpipe_hpc.rank_thread import single_thread_pool
from bagpipe_hpc.runtime.finite import require_finite_predictions
from bagpipe_hpc.threaded_job import wait_on

Float32Array = NDArray[np.float32]


@dataclass
class _OpenEvaluation:
    """An evaluation whose plans are being sent; pieces are those of its batches."""

    iteration: int
    labels: list[Float32Array] = field(default_factory=list)
    logits: list[Float32Array] = field(default_factory=list)
    num_missing: int = 0  # shares
    num_answered: int = 0  # samples that have their predictions


class Evaluator:
    """Collects the predictions of each evaluation, computes its metrics in a thread, and decides when training ends.

    Args:
        config: Metric and patience.
        timetable: When this start of the job evaluates.
        num_trainers: T.
        history: Evaluations of earlier starts, before the first iteration of this one.
        predictions: Where those of an evaluation go; None: nowhere.
        has_labels: Whether samples have labels; without them there are no metrics.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        timetable: Timetable,
        num_trainers: int,
        history: Sequence[Evaluation] = (),
        predictions: Path | None = None,
        has_labels: bool = True,
    ) -> None:
        self._config, self._timetable = config, timetable
        self._num_trainers = num_trainers
        self._predictions = predictions
        self._has_labels = has_labels
        self._results = list(history)
        self._latest = timetable.start - 1  # iteration up to which all results are there
        self._open: _OpenEvaluation | None = None
        self._answered: _OpenEvaluation | None = None  # the evaluation of the latest predictions
        # Of each trainer, shares of predictions to come: they come in order.
        self._shares: list[deque[tuple[_OpenEvaluation, Float32Array]]] = [deque() for _ in range(num_trainers)]
        self._metrics: deque[tuple[int, Future[EvaluationResult]]] = deque()
        self._executor = single_thread_pool("metrics")
        self._changed = threading.Condition()  # of what the gate looks at: results, and whether it is given up
        self._is_given_up = False
        self._num_passed = timetable.start  # training iterations that went through the gate
        self.stopped_at: int | None = None  # after so many training iterations, for want of improvement
        self.num_done = 0  # in this start
        self.metric_seconds = 0.0

    def expect(self, plan: IterationPlan) -> None:
        """A read-only plan is being sent (1)."""
        if self._open is None or self._open.iteration != plan.num_trained:
            self._open = _OpenEvaluation(plan.num_trained)
        opened = self._open
        logits = np.empty(len(plan.samples.labels), dtype=np.float32)
        opened.labels.append(plan.samples.labels)
        opened.logits.append(logits)
        opened.num_missing += self._num_trainers
        for trainer, shares in enumerate(self._shares):
            shares.append((opened, logits[plan.samples.sample_ends[trainer] : plan.samples.sample_ends[trainer + 1]]))

    def take(self, predictions: Predictions) -> None:
        """Take what one trainer predicts for its share of the first plan that it had not answered (2)."""
        opened, share = self._shares[predictions.trainer].popleft()
        share[:] = predictions.logits
        opened.num_missing -= 1
        opened.num_answered += len(share)
        self._answered = opened
        if opened.num_missing == 0 and len(opened.logits) == self._timetable.num_batches:
            self._metrics.append((opened.iteration, self._executor.submit(self._judge, opened)))

    def finished(self) -> Iterator[Evaluation]:
        """Evaluations whose metrics are there by now, in order; never blocks.

        Raises:
            DivergedError: a prediction of one is not finite.
        """
        while self._metrics and self._metrics[0][1].done():
            iteration, result = self._metrics.popleft()
            evaluation = Evaluation(iteration, result.result())
            with self._changed:
                self._results.append(evaluation)
                self._latest = iteration
                self._changed.notify_all()
            self.num_done += 1
            yield evaluation

    @property
    def progress(self) -> tuple[int, int] | None:
        """Samples of an evaluation that have their predictions, and all of its samples; None between evaluations."""
        opened, total = self._answered, self._timetable.num_samples
        return None if opened is None or opened.num_answered == total else (opened.num_answered, total)

    def is_idle(self) -> bool:
        """Whether nothing is to come of the plans sent so far."""
        return not self._metrics and not any(self._shares)

    def are_known_before(self, iteration: int) -> bool:
        """Whether all results due before so many training iterations are there."""
        due = self._timetable.last_before(iteration)
        return due is None or due <= self._latest

    def before(self, iteration: int) -> list[Evaluation]:
        """Evaluations before so many training iterations."""
        return [evaluation for evaluation in self._results if evaluation.iteration < iteration]

    @property
    def last(self) -> Evaluation | None:
        """The latest one of this start."""
        return self._results[-1] if self.num_done else None

    @property
    def best(self) -> Evaluation | None:
        """The best so far."""
        return best_of(self._results, self._config.metric)

    def may_be_best(self, iteration: int) -> bool:
        """Whether the model after so many iterations is the best so far, or may turn out to be."""
        best = self.best
        is_awaited = iteration > self._latest and self._timetable.is_due(iteration)
        return is_awaited or (best is not None and best.iteration == iteration)

    def admits(self, batch: Batch) -> bool:
        """Whether the batches of the job go on with this one (4); may wait for a result.

        Called with every batch, in order, by a planning thread.
        """
        if batch.read_only:
            return True
        done, self._num_passed = self._num_passed, self._num_passed + 1
        every, patience = self._config.every, self._config.early_stopping_patience
        if patience is None or every is None or done % every or not self._timetable.is_due(done):
            return True
        with trace.span("evaluation wait"), self._changed:
            while not (self._is_given_up or self.are_known_before(done)):
                wait_on(self._changed)
            if self._is_given_up and not self.are_known_before(done):
                return False
            if num_in_vain(self.before(done), self._config.metric, self._config.min_improvement) < patience:
                return True
        self.stopped_at = done
        return False

    def give_up(self) -> None:
        """Let nobody wait for results: the stream is being stopped."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def totals(self) -> dict[str, Any]:
        """Figures for summary.json."""
        metric, best = self._config.metric, self.best
        return {
            "number": self.num_done,
            "metric_seconds": self.metric_seconds,
            "metric": metric,
            "best": getattr(best.result, metric) if best else None,
            "best_iteration": best.iteration if best else None,
            "stopped_early": self._why_stopped(),
        }

    def _why_stopped(self) -> str | None:
        if self.stopped_at is None:
            return None
        in_vain = f"{self._config.early_stopping_patience} evaluations in a row had not improved {self._config.metric}"
        return f"after {self.stopped_at:,} iterations: {in_vain}"

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()

    def _judge(self, opened: _OpenEvaluation) -> EvaluationResult:
        start = time.perf_counter()
        with trace.span("metrics"):
            logits, labels = np.concatenate(opened.logits), np.concatenate(opened.labels)
            require_finite_predictions(opened.iteration, self._config.split, logits)
            if self._predictions is not None:
                save_predictions(self._predictions, logits)
            result = evaluate_predictions(logits, labels) if self._has_labels else without_labels(len(logits))
        self.metric_seconds += time.perf_counter() - start
        return result
