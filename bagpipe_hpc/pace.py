"""How fast something goes now, and when it will be done."""

from __future__ import annotations

from collections import deque

RECENT_SECONDS = 30.0
MIN_SECONDS = 1.0  # a speed that was measured over less says nothing

_SECONDS_PER_MARK = 0.5


class Pace:
    """Recent speed of work that is counted.

    The speed is that of the last half minute, so that a start that was slow (compiling, a cold disk) is forgotten.

    Args:
        now: Seconds, when nothing was done yet.
        done: What was done before: by an earlier start of the job.
    """

    def __init__(self, now: float, done: int = 0) -> None:
        self._latest = (now, done)
        self._marks = deque([self._latest])  # rising, at least _SECONDS_PER_MARK apart

    def note(self, now: float, done: int) -> None:
        """So much was done by now; neither falls."""
        self._latest = (now, done)
        if now - self._marks[-1][0] >= _SECONDS_PER_MARK:
            self._marks.append(self._latest)
        while len(self._marks) > 1 and now - self._marks[1][0] >= RECENT_SECONDS:
            self._marks.popleft()

    def per_second(self) -> float | None:
        """Recent speed; None while it is unknown."""
        (first, before), (last, done) = self._marks[0], self._latest
        return (done - before) / (last - first) if last - first >= MIN_SECONDS and done > before else None

    def seconds_left(self, total: int) -> float | None:
        """How long the rest will take at the recent speed; None while that is unknown."""
        speed = self.per_second()
        return None if speed is None else max(0, total - self._latest[1]) / speed


def clock_text(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
