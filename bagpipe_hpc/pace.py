"""Recent speed of work, and the time until it is complete."""

from __future__ import annotations

from collections import deque

RECENT_SECONDS = 30.0
MIN_SECONDS = 1.0  # a speed that is measured over a shorter time is not meaningful

_SECONDS_PER_MARK = 0.5


class Pace:
    """Recent speed of work that can be counted.

    The speed is that of the last half minute, so a slow start (compiling, a cold disk) does not count for long.

    Args:
        now: The present time in seconds.
        done: The count at this time, which may come from an earlier start of the job.
    """

    def __init__(self, now: float, done: int = 0) -> None:
        self._latest = (now, done)
        self._marks = deque([self._latest])  # rising times, at least _SECONDS_PER_MARK apart

    def note(self, now: float, done: int) -> None:
        """Note the count at a time. Neither may fall."""
        self._latest = (now, done)
        if now - self._marks[-1][0] >= _SECONDS_PER_MARK:
            self._marks.append(self._latest)
        while len(self._marks) > 1 and now - self._marks[1][0] >= RECENT_SECONDS:
            self._marks.popleft()

    def per_second(self) -> float | None:
        """Return the recent speed; None while it is unknown."""
        (first, before), (last, done) = self._marks[0], self._latest
        return (done - before) / (last - first) if last - first >= MIN_SECONDS and done > before else None

    def seconds_left(self, total: int) -> float | None:
        """Return how long the rest takes at the recent speed; None while the speed is unknown."""
        speed = self.per_second()
        return None if speed is None else max(0, total - self._latest[1]) / speed


def clock_text(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
