"""Evaluation during training: read-only plans in the stream, predictions to the oracle, metrics in one of its threads.

planning threads               oracle                                  trainers
  |                              1 read-only plans of evaluation k ----> | predict
  |                              2 predictions, batch by batch <-------- |
  |                              3 all are there: compute metrics, in a thread
  | 4 before the training plan   | 5 result: evaluations.jsonl, the best checkpoint
  |   behind evaluation k + 1:   |
  |   wait for result k <--------|

**Early stopping.** Training ends after evaluation k + 1 if the results up to evaluation k have exhausted the patience.
The decision depends on these results and on nothing else (4), so it is the same in every run. Trainers do not wait for
metrics: while the metrics of evaluation k are computed, they train on the iterations up to evaluation k + 1. The oracle
never has to take back a plan.
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
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.oracle.evaluation import Evaluation, Timetable, best_of, mean_metrics, num_without_improvement
from bagpipe_hpc.oracle.metrics import EvaluationResult, Targets, evaluate_predictions, save_predictions
from bagpipe_hpc.protocol.messages import Predictions
from bagpipe_hpc.protocol.plan import IterationPlan, Samples
from bagpipe_hpc.rank_thread import single_thread_pool
from bagpipe_hpc.runtime.finite import require_finite_predictions
from bagpipe_hpc.threaded_job import wait_on

Float32Array = NDArray[np.float32]


@dataclass
class _OpenEvaluation:
    """An evaluation whose plans are being sent.

    Args:
        iteration: Training iterations of the whole job before it.
        batches: The samples of each batch so far.
        logits: Of each batch so far, float32, of the shape of the labels.
        num_missing: The number of shares that have no predictions yet.
        num_answered: The number of samples that have predictions.
    """

    iteration: int
    batches: list[Samples] = field(default_factory=list)
    logits: list[Float32Array] = field(default_factory=list)
    num_missing: int = 0
    num_answered: int = 0


class Evaluator:
    """Collects the predictions of each evaluation, computes its metrics in a thread, and decides when training ends.

    Args:
        config: The settings of evaluations, such as metric and patience.
        timetable: When this start of the job evaluates.
        num_trainers: T.
        schema: What the labels of samples are. Without labels there are no metrics.
        history: The evaluations of earlier starts, before the first iteration of this one.
        predictions: The file that the predictions of an evaluation are saved in. None: they are not saved.

    `stopped_at` is the number of training iterations after which training ended early; None if it did not. `num_done`
    is the number of evaluations of this start that have their result.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        timetable: Timetable,
        num_trainers: int,
        schema: Schema,
        history: Sequence[Evaluation] = (),
        predictions: Path | None = None,
    ) -> None:
        self._config, self._timetable = config, timetable
        self._num_trainers = num_trainers
        self._predictions = predictions
        self._schema = schema
        self._results = list(history)
        self._latest = timetable.start - 1  # all results up to this iteration are known
        self._open: _OpenEvaluation | None = None
        self._answered: _OpenEvaluation | None = None  # the evaluation that the latest predictions belong to
        # By trainer: the shares whose predictions have not arrived. A trainer sends its predictions in plan order.
        self._shares: list[deque[tuple[_OpenEvaluation, Float32Array]]] = [deque() for _ in range(num_trainers)]
        self._metrics: deque[tuple[int, Future[EvaluationResult]]] = deque()
        self._executor = single_thread_pool("metrics")
        self._changed = threading.Condition()  # `admits` waits until `_results` or `_is_given_up` changes
        self._is_given_up = False
        self._num_admitted = timetable.start  # training iterations of the whole job that `admits` has seen
        self.stopped_at: int | None = None
        self.num_done = 0
        self.metric_seconds = 0.0

    def expect(self, plan: IterationPlan) -> None:
        """Expect predictions for a read-only plan, which the caller sends (1)."""
        if self._open is None or self._open.iteration != plan.num_trained:
            self._open = _OpenEvaluation(plan.num_trained)
        opened = self._open
        logits = np.empty(plan.samples.labels.shape, dtype=np.float32)
        opened.batches.append(plan.samples)
        opened.logits.append(logits)
        opened.num_missing += self._num_trainers
        for trainer, shares in enumerate(self._shares):
            shares.append((opened, logits[plan.samples.sample_ends[trainer] : plan.samples.sample_ends[trainer + 1]]))

    def take(self, predictions: Predictions) -> None:
        """Take the predictions of a trainer for its share of the first plan that it has not answered yet (2)."""
        opened, share = self._shares[predictions.trainer].popleft()
        share[:] = predictions.logits.reshape(share.shape)
        opened.num_missing -= 1
        opened.num_answered += len(share)
        self._answered = opened
        if opened.num_missing == 0 and len(opened.logits) == self._timetable.num_batches_at(opened.iteration):
            self._metrics.append((opened.iteration, self._executor.submit(self._judge, opened)))

    def finished(self) -> Iterator[Evaluation]:
        """Yield the evaluations whose metrics are newly known, in order. This never blocks.

        Raises:
            DivergedError: a prediction is not finite.
        """
        while self._metrics and self._metrics[0][1].done():
            iteration, result = self._metrics.popleft()
            evaluation = Evaluation(iteration, result.result(), self._window_at(iteration))
            with self._changed:
                self._results.append(evaluation)
                self._latest = iteration
                self._changed.notify_all()
            self.num_done += 1
            yield evaluation

    @property
    def progress(self) -> tuple[int, int] | None:
        """The samples with predictions and all samples of the evaluation that goes on; None between evaluations."""
        opened = self._answered
        if opened is None or opened.num_answered == (total := self._timetable.num_samples_at(opened.iteration)):
            return None
        return opened.num_answered, total

    def is_idle(self) -> bool:
        """Return whether all predictions and metrics of the plans sent so far are known."""
        return not self._metrics and not any(self._shares)

    def are_known_before(self, iteration: int) -> bool:
        """Return whether the results of all evaluations before this iteration are known."""
        due = self._timetable.last_before(iteration)
        return due is None or due <= self._latest

    def before(self, iteration: int) -> list[Evaluation]:
        """Return the evaluations before this iteration, also those of earlier starts."""
        return [evaluation for evaluation in self._results if evaluation.iteration < iteration]

    @property
    def last(self) -> Evaluation | None:
        """The latest evaluation, if it is one of this start and of the split; else None."""
        return self._results[-1] if self.num_done and self._results[-1].window is None else None

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation of the split so far, also of earlier starts; None if there is none yet."""
        return best_of([each for each in self._results if each.window is None], self._config.metric)

    def _window_at(self, iteration: int) -> tuple[int, int] | None:
        evaluated = self._timetable.windows.get(iteration)
        return None if evaluated is None else (evaluated.window.start, evaluated.window.stop)

    def may_be_best(self, iteration: int) -> bool:
        """Return whether the model after this iteration is the best so far, or may be once its result is known."""
        best = self.best
        is_awaited = iteration > self._latest and self._timetable.is_due(iteration)
        return is_awaited or (best is not None and best.iteration == iteration)

    def admits(self, batch: Batch) -> bool:
        """Return whether training goes on with this batch, or ends before it (4).

        A planning thread calls this with every batch, in order. The call may wait for the result of an evaluation.
        """
        if batch.read_only:
            return True
        done, self._num_admitted = self._num_admitted, self._num_admitted + 1
        every, patience = self._config.every, self._config.early_stopping_patience
        if patience is None or every is None or done % every or not self._timetable.is_due(done):
            return True
        with trace.span("evaluation wait"), self._changed:
            while not (self._is_given_up or self.are_known_before(done)):
                wait_on(self._changed)
            if self._is_given_up and not self.are_known_before(done):
                return False
            results = self.before(done)
            if num_without_improvement(results, self._config.metric, self._config.min_improvement) < patience:
                return True
        self.stopped_at = done
        return False

    def give_up(self) -> None:
        """Let `admits` no longer wait for results, because the stream of plans is being stopped."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def totals(self) -> dict[str, Any]:
        """Return the figures of all evaluations by name, as in summary.json."""
        metric, best = self._config.metric, self.best
        return {
            "number": self.num_done,
            "metric_seconds": self.metric_seconds,
            "metric": metric,
            "best": getattr(best.result.judged, metric) if best else None,
            "best_iteration": best.iteration if best else None,
            "stopped_early": self._why_stopped(),
            **self._windows_totals(),
        }

    def _windows_totals(self) -> dict[str, Any]:
        """Return the mean metrics of all windows of the whole job; nothing if there are none."""
        results = [each.result for each in self._results if each.window is not None]
        return {"windows": {"number": len(results), **mean_metrics(results)}} if results else {}

    def _why_stopped(self) -> str | None:
        if self.stopped_at is None:
            return None
        patience, metric = self._config.early_stopping_patience, self._config.metric
        return f"after {self.stopped_at:,} iterations: {patience} evaluations in a row had not improved {metric}"

    def close(self) -> None:
        """End the thread that computes metrics."""
        self._executor.shutdown()

    def _judge(self, opened: _OpenEvaluation) -> EvaluationResult:
        start = time.perf_counter()
        with trace.span("metrics"):
            logits = np.concatenate(opened.logits)
            evaluated = self._timetable.windows.get(opened.iteration)
            split, first = (self._config.split, 0) if evaluated is None else ("train", evaluated.window.first)
            require_finite_predictions(opened.iteration, split, logits, first)
            if self._predictions is not None:
                save_predictions(self._predictions, logits, self._schema)
            config = self._config
            result = evaluate_predictions(
                logits, _targets_of(opened.batches), self._schema, judged=config.label, top_k=config.top_k
            )
        self.metric_seconds += time.perf_counter() - start
        return result


def _targets_of(batches: Sequence[Samples]) -> Targets:
    labels, weights, groups = (
        np.concatenate([getattr(samples, name) for samples in batches])
        for name in ("labels", "sample_weights", "groups")
    )
    return Targets(labels, weights if len(weights) else None, groups if len(groups) else None)
