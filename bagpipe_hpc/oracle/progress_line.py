"""One line that says where a run stands. Pure: time and counts come from the caller."""

from __future__ import annotations

import math

from bagpipe_hpc.pace import Pace, clock_text


class ProgressLine:
    """Speed, loss, the latest evaluation and the time left.

    Args:
        now: Seconds, when the run starts.
        first_iteration: Iterations done by earlier starts of the job.
        num_iterations: Iterations of the whole job.
    """

    def __init__(self, now: float, first_iteration: int, num_iterations: int) -> None:
        self._start = now
        self._first = self.num_done = first_iteration
        self.num_iterations = num_iterations
        self._iterations, self._samples = Pace(now, first_iteration), Pace(now)
        self._num_samples = 0
        self.loss = math.nan
        self.evaluation = ""
        self.evaluated: tuple[int, int] | None = None
        self.saving_since: float | None = None  # seconds, since when nothing but the last checkpoint is missing
        self.is_trained = False

    def advance(self, now: float, num_done: int, num_samples: int) -> None:
        """So many iterations are done; the last one trained on num_samples."""
        self.num_done = num_done
        self._num_samples += num_samples
        self._iterations.note(now, num_done)
        self._samples.note(now, self._num_samples)

    def figures(self, now: float) -> str:
        """All that is known by now, without the count of iterations.

        The speed is the recent one, of the last half minute: "samples/s now". Nothing is shown that is unknown, and no
        speed once the job only evaluates or saves.
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
        left = self._iterations.seconds_left(self.num_iterations)
        if left is not None and not self.is_trained and self.num_done < self.num_iterations:
            parts.append(f"ETA {clock_text(left)}")
        return "  ".join(parts)

    def text(self, now: float) -> str:
        """The line of a log."""
        if self._first >= self.num_iterations:
            return self.figures(now)  # of a job that only evaluates
        return f"iteration {self.num_done:,}/{self.num_iterations:,}  {self.figures(now)}".rstrip()
