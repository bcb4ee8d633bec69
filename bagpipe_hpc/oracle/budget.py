"""The decision when a job stops because its time limit is near. Pure."""

from __future__ import annotations


class Budget:
    """The time that a job has. It stops early enough to write the last checkpoint in time.

    Args:
        seconds: The time limit, from the start of the job. None: there is no limit.
        start: The reading of the clock at the start of the job.
    """

    RESERVE_SECONDS = 15.0  # the time to start a checkpoint and to end the processes
    BACKLOG = 20  # the number of iterations from the request of a boundary to the boundary

    def __init__(self, seconds: float | None, start: float) -> None:
        self._seconds = seconds
        self._start = start

    def is_spent(self, now: float, iteration_seconds: float, write_seconds: float) -> bool:
        """Return whether it is time to stop.

        Args:
            now: The reading of the clock.
            iteration_seconds: The time of one iteration.
            write_seconds: The time of the slowest checkpoint so far. The last one may take twice as long.
        """
        if self._seconds is None:
            return False
        reserve = self.RESERVE_SECONDS + self.BACKLOG * iteration_seconds + 2 * write_seconds
        return now - self._start > self._seconds - min(reserve, self._seconds / 2)
