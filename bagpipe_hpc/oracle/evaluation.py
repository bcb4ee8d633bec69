"""The evaluations of a job: when they are due, which one is the best, and how many have not improved. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from bagpipe_hpc.bounded_json import dump_line, finite, load_json
from bagpipe_hpc.data.time_windows import TimeWindow
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics

SMALLER_IS_BETTER = ("log_loss", "normalised_entropy", "mse")


@dataclass(frozen=True)
class EvaluatedWindow:
    """A window that is evaluated, in so many batches, before it is trained on."""

    window: TimeWindow
    num_batches: int


@dataclass(frozen=True)
class Timetable:
    """The training iterations after which a start of a job evaluates: all multiples of `every`, and the last one.

    In time order (training.order), a job also evaluates on each window before it trains on it.

    A job that goes on from a checkpoint of iteration i begins with the evaluation that is due after i, if there is one.

    Args:
        start: Training iterations of earlier starts of the job.
        end: Training iterations of the whole job.
        num_batches: The number of batches of one evaluation of the split. 0: it is not evaluated.
        every: Training iterations from one evaluation to the next. None: only one evaluation, after the last iteration.
        num_samples: The number of samples of one evaluation of the split.
        windows: The windows to evaluate, by the number of training iterations before them, which is below `end`.
    """

    start: int
    end: int
    num_batches: int
    every: int | None = None
    num_samples: int = 0
    windows: Mapping[int, EvaluatedWindow] = field(default_factory=dict)

    def is_due(self, num_trained: int) -> bool:
        """Return whether an evaluation is due after the first num_trained training iterations."""
        if num_trained in self.windows:
            return True
        if self.num_batches == 0 or not self.start <= num_trained <= self.end:
            return False
        return num_trained == self.end or self._divides(num_trained)

    def last_before(self, num_trained: int) -> int | None:
        """Return after which iteration the last evaluation before num_trained is due in this start; None if none is.

        An evaluation after the end of training does not count.
        """
        before = bisect_left(self._of_windows, num_trained)
        last = self._of_windows[before - 1] if before else -1
        if self.num_batches and self.every is not None:
            multiple = (min(num_trained, self.end) - 1) // self.every * self.every
            last = max(last, multiple if multiple >= max(1, self.start) else -1)
        return last if last >= 0 else None

    @property
    def num_evaluations(self) -> int:
        """The number of evaluations of this start."""
        return self._num_of_split + len(self.windows)

    @property
    def num_batches_of_all(self) -> int:
        """The number of batches of all evaluations of this start."""
        return self._num_of_split * self.num_batches + sum(each.num_batches for each in self.windows.values())

    def num_batches_at(self, num_trained: int) -> int:
        """Return the number of batches of the evaluation that is due after num_trained iterations."""
        return self.windows[num_trained].num_batches if num_trained in self.windows else self.num_batches

    def num_samples_at(self, num_trained: int) -> int:
        """Return the number of samples of the evaluation that is due after num_trained iterations."""
        return self.windows[num_trained].window.num_samples if num_trained in self.windows else self.num_samples

    @cached_property
    def _of_windows(self) -> list[int]:
        return sorted(self.windows)

    @property
    def _num_of_split(self) -> int:
        """The number of evaluations of the split."""
        if self.num_batches == 0:
            return 0
        multiples = (self.end - 1) // self.every - (max(1, self.start) - 1) // self.every if self.every else 0
        return max(0, multiples) + 1

    def _divides(self, num_trained: int) -> bool:
        return self.every is not None and num_trained > 0 and num_trained % self.every == 0


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Args:
        iteration: Training iterations of the whole job before the evaluation.
        result: Its metrics.
        window: The times t with window[0] <= t < window[1] of the samples, if they are a window of the training
            samples that the job trains on next; None: a split.
    """

    iteration: int
    result: EvaluationResult
    window: tuple[int, int] | None = None

    def to_line(self) -> str:
        """Return a line of evaluations.jsonl."""
        window = {"window": list(self.window)} if self.window else {}
        return dump_line(finite({"iteration": self.iteration, **window, **self.result.to_json()}))

    @classmethod
    def from_line(cls, line: str | bytes) -> Evaluation:
        """Read a line of evaluations.jsonl.

        Raises:
            ValueError: the line is not valid JSON, or a count is wrong.
            KeyError: the iteration is missing.
            TypeError: the line has other fields, or a field has the wrong type.
        """
        fields = load_json(line.encode() if isinstance(line, str) else line)
        if not isinstance(fields, dict):
            raise TypeError("a line is no JSON object")
        iteration = fields.pop("iteration")
        if type(iteration) is not int or iteration < 0:
            raise ValueError("the iteration of an evaluation must be a count")
        window = fields.pop("window", None)
        return cls(iteration, EvaluationResult.from_json(fields), None if window is None else _window_in(window))

    def score(self, metric: str) -> float:
        """Return the metric, negated if smaller values are better; minus infinity if it is undefined."""
        value = getattr(self.result.judged, metric)
        if value is None or not math.isfinite(value):
            return -math.inf
        return float(-value if metric in SMALLER_IS_BETTER else value)


def _window_in(given: Any) -> tuple[int, int]:
    if not isinstance(given, list) or len(given) != 2 or any(type(time) is not int for time in given):
        raise TypeError("the window of an evaluation must be two times")
    return given[0], given[1]


def best_of(evaluations: Sequence[Evaluation], metric: str) -> Evaluation | None:
    """Return the best evaluation, or the first of several equally good ones; None if there are none."""
    return max(evaluations, key=lambda evaluation: evaluation.score(metric), default=None)


def mean_metrics(results: Sequence[EvaluationResult]) -> dict[str, float]:
    """Return the mean of each metric, where it is defined, weighted with the numbers of samples.

    The mean log loss of all windows is the progressive validation loss (Blum et al. 1999).
    """
    means = {}
    for name in [each.name for each in fields(LabelMetrics)]:
        defined = [(value, each.num_samples) for each in results if (value := getattr(each.judged, name)) is not None]
        if defined:
            num_samples = sum(number for _, number in defined)
            means[name] = sum(value * number for value, number in defined) / num_samples
    return means


def num_without_improvement(evaluations: Sequence[Evaluation], metric: str, min_improvement: float) -> int:
    """Return how many evaluations there were since the last improvement.

    An evaluation is an improvement if its metric is better than that of the improvement before it by at least
    min_improvement.
    """
    mark, num_since = -math.inf, 0
    for evaluation in evaluations:
        score = evaluation.score(metric)
        if score > mark and score - mark >= min_improvement:
            mark, num_since = score, 0
        else:
            num_since += 1
    return num_since
