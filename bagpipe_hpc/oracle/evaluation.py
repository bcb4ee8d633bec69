"""When a job evaluates, which evaluation is the best, and when training ends because none gets better. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bagpipe_hpc.bounded_json import dump_line, finite, load_json
from bagpipe_hpc.oracle.metrics import EvaluationResult


@dataclass(frozen=True)
class Timetable:
    """After which training iterations a start of a job evaluates: all multiples of `every`, and the last.

    An evaluation belongs to what comes after its iteration: a job that goes on from iteration i begins with the
    evaluation due after i, if there is one.

    Args:
        start: Training iterations done by earlier starts.
        end: Training iterations of the whole job.
        num_batches: Of one evaluation; 0: there are none.
        every: None: only after the last iteration.
        num_samples: Of one evaluation.
    """

    start: int
    end: int
    num_batches: int
    every: int | None = None
    num_samples: int = 0

    def is_due(self, num_trained: int) -> bool:
        """Whether there is an evaluation between so many training iterations and the next."""
        if self.num_batches == 0 or not self.start <= num_trained <= self.end:
            return False
        return num_trained == self.end or self._divides(num_trained)

    def last_before(self, num_trained: int) -> int | None:
        """The last evaluation of this start that is due earlier; None: there is none."""
        if self.num_batches == 0 or self.every is None:
            return None
        last = (min(num_trained, self.end) - 1) // self.every * self.every
        return last if last >= max(1, self.start) else None

    @property
    def num_evaluations(self) -> int:
        """Of this start."""
        if self.num_batches == 0:
            return 0
        multiples = (self.end - 1) // self.every - (max(1, self.start) - 1) // self.every if self.every else 0
        return max(0, multiples) + 1

    def _divides(self, num_trained: int) -> bool:
        return self.every is not None and num_trained > 0 and num_trained % self.every == 0


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation."""

    iteration: int  # training iterations before it
    result: EvaluationResult

    def to_line(self) -> str:
        """As in evaluations.jsonl."""
        return dump_line(finite({"iteration": self.iteration, **asdict(self.result)}))

    @classmethod
    def from_line(cls, line: str | bytes) -> Evaluation:
        """Of a line of evaluations.jsonl; ValueError, KeyError or TypeError if it is none."""
        fields = load_json(line.encode() if isinstance(line, str) else line)
        if not isinstance(fields, dict):
            raise TypeError("a line is no JSON object")
        iteration, num_samples = fields.pop("iteration"), fields.get("num_samples")
        if any(type(count) is not int or count < 0 for count in (iteration, num_samples)):
            raise ValueError("iteration and num_samples of an evaluation must be counts")
        if any(value is not None and type(value) not in (int, float) for value in fields.values()):
            raise TypeError("metrics of an evaluation must be numbers or null")
        return cls(iteration, EvaluationResult(**fields))

    def score(self, metric: str) -> float:
        """The metric, turned such that more is better; less than any other where it is undefined."""
        value = getattr(self.result, metric)
        if value is None or not math.isfinite(value):
            return -math.inf
        return float(value if metric == "auc" else -value)


def best_of(evaluations: Sequence[Evaluation], metric: str) -> Evaluation | None:
    """The best one, of equals the first."""
    return max(evaluations, key=lambda evaluation: evaluation.score(metric), default=None)


def num_in_vain(evaluations: Sequence[Evaluation], metric: str, min_improvement: float) -> int:
    """Evaluations since the last improvement: one whose metric beat the improvement before it by min_improvement."""
    mark, num_since = -math.inf, 0
    for evaluation in evaluations:
        score = evaluation.score(metric)
        if score > mark and score - mark >= min_improvement:
            mark, num_since = score, 0
        else:
            num_since += 1
    return num_since
