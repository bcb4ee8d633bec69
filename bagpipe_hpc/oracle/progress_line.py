"""One line about the progress of a run. Pure: time and counts come from the caller."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bagpipe_hpc.pace import Pace, clock_text


class ProgressLine:
    """A line with speed, loss, the latest evaluation and the time left.

    The caller sets `loss` (nan: unknown), `evaluation` (the latest one, in words), `tables` (what there is to say of
    each dynamic table), `evaluated` (the samples with predictions and all samples of the evaluation that goes on),
    `saving_since` (the time since which the job does nothing but write the last checkpoint) and `is_trained` (whether
    all iterations are done).

    Args:
        now: The time in seconds at which the run starts.
        first_iteration: Training iterations of earlier starts of the job.
        num_iterations: Training iterations of the whole job.
    """

    def __init__(self, now: float, first_iteration: int, num_iterations: int) -> None:
        self._start = now
        self._first = self.num_done = first_iteration
        self.num_iterations = num_iterations
        self._iterations, self._samples = Pace(now, first_iteration), Pace(now)
        self._num_samples = 0
        self.loss = math.nan
        self.evaluation = ""
        self.tables: Sequence[str] = ()
        self.evaluated: tuple[int, int] | None = None
        self.saving_since: float | None = None
        self.is_trained = False

    def advance(self, now: float, num_done: int, num_samples: int) -> None:
        """Note the end of a training iteration.

        Args:
            now: The time in seconds.
            num_done: Training iterations of the whole job up to and including this one.
            num_samples: The number of samples of its global batch.
        """
        self.num_done = num_done
        self._num_samples += num_samples
        self._iterations.note(now, num_done)
        self._samples.note(now, self._num_samples)

    def figures(self, now: float) -> str:
        """Return the known figures, without the number of iterations.

        The speed, "samples/s now", is that of the last half minute. Unknown figures are left out. The speed is left out
        too when the job only evaluates or saves.
        """
        parts = []
        if self.evaluated is not None:
            parts.append("evaluating {:,}/{:,} samples".format(*self.evaluated))
        elif self.num_done == self._first < self.num_iterations:
            parts.append(f"waiting for the first iteration, {clock_text(now - self._start)} so far")
        elif self.saving_since is not None:
            parts.append(f"writing the last checkpoint, {clock_text(now - self.saving_since)} so far")
        if not self.is_trained and (speed := self._samples.per_second()) is not None:
            parts.append(f"{speed:,.0f} samples/s now")
        if not math.isnan(self.loss):
            parts.append(f"loss {self.loss:.4f}")
        if self.evaluation:
            parts.append(self.evaluation)
        parts += self.tables
        left = self._iterations.seconds_left(self.num_iterations)
        if left is not None and not self.is_trained and self.num_done < self.num_iterations:
            parts.append(f"ETA {clock_text(left)}")
        return "  ".join(parts)

    def text(self, now: float) -> str:
        """Return the line for a log."""
        if self._first >= self.num_iterations:
            return self.figures(now)  # the job only evaluates
        return f"iteration {self.num_done:,}/{self.num_iterations:,}  {self.figures(now)}".rstrip()
