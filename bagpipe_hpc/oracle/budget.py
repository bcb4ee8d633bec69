"""When the oracle stops a job because its time runs out. Pure."""

from __future__ import annotations


class Budget:
    """When to stop, so that the last checkpoint is written in time.

    Args:
        seconds: From the start of the job; None: no limit.
        start: What the clock reads at the start.
    """

    RESERVE_SECONDS = 15.0  # to start a checkpoint and to leave
    BACKLOG = 20  # iterations between asking for a boundary and reaching it

    def __init__(self, seconds: float | None, start: float) -> None:
        self._seconds = seconds
        self._start = start

    def is_spent(self, now: float, iteration_seconds: float, write_seconds: float) -> bool:
        """Whether it is time to stop.

        Args:
            iteration_seconds: Of one iteration.
            write_seconds: Of the slowest checkpoint so far; the last one may take twice as long.
        """
        if self._seconds is None:
            return False
        reserve = self.RESERVE_SECONDS + self.BACKLOG * iteration_seconds + 2 * write_seconds
        return now - self._start > self._seconds - min(reserve, self._seconds / 2)
