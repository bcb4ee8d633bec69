"""The evaluations of a job: when they are due, which one is the best, and how many have not improved. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bagpipe_hpc.bounded_json import dump_line, finite, load_json
from bagpipe_hpc.oracle.metrics import EvaluationResult

SMALLER_IS_BETTER = ("log_loss", "normalised_entropy", "mse")


@dataclass(frozen=True)
class Timetable:
    """The training iterations after which a start of a job evaluates: all multiples of `every`, and the last one.

    A job that goes on from a checkpoint of iteration i begins with the evaluation that is due after i, if there is one.

    Args:
        start: Training iterations of earlier starts of the job.
        end: Training iterations of the whole job.
        num_batches: The number of batches of one evaluation. 0: there are no evaluations.
        every: Training iterations from one evaluation to the next. None: only one evaluation, after the last iteration.
        num_samples: The number of samples of one evaluation.
    """

    start: int
    end: int
    num_batches: int
    every: int | None = None
    num_samples: int = 0

    def is_due(self, num_trained: int) -> bool:
        """Return whether an evaluation is due after the first num_trained training iterations."""
        if self.num_batches == 0 or not self.start <= num_trained <= self.end:
            return False
        return num_trained == self.end or self._divides(num_trained)

    def last_before(self, num_trained: int) -> int | None:
        """Return after which iteration the last evaluation before num_trained is due in this start; None if none is."""
        if self.num_batches == 0 or self.every is None:
            return None
        last = (min(num_trained, self.end) - 1) // self.every * self.every
        return last if last >= max(1, self.start) else None

    @property
    def num_evaluations(self) -> int:
        """The number of evaluations of this start."""
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
    """

    iteration: int
    result: EvaluationResult

    def to_line(self) -> str:
        """Return a line of evaluations.jsonl."""
        return dump_line(finite({"iteration": self.iteration, **self.result.to_json()}))

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
        return cls(iteration, EvaluationResult.from_json(fields))

    def score(self, metric: str) -> float:
        """Return the metric, negated if smaller values are better; minus infinity if it is undefined."""
        value = getattr(self.result.judged, metric)
        if value is None or not math.isfinite(value):
            return -math.inf
        return float(-value if metric in SMALLER_IS_BETTER else value)


def best_of(evaluations: Sequence[Evaluation], metric: str) -> Evaluation | None:
    """Return the best evaluation, or the first of several equally good ones; None if there are none."""
    return max(evaluations, key=lambda evaluation: evaluation.score(metric), default=None)


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
