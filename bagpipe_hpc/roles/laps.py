"""Time from plan to plan, training and evaluation apart."""

from __future__ import annotations

from collections.abc import Callable


class Laps:
    """Laps of one thread; the first begins with the first call of `end`.

    Args:
        clock: Nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._mark: int | None = None
        self.seconds: list[float] = []  # of each lap that counts
        self.other_seconds = 0.0  # of all others

    def end(self, *, counts: bool) -> None:
        """A lap ends here, and the next begins."""
        now = self._clock()
        if self._mark is not None:
            seconds = (now - self._mark) / 1e9
            if counts:
                self.seconds.append(seconds)
            else:
                self.other_seconds += seconds
        self._mark = now
