"""Time from plan to plan, training and evaluation apart, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.trainer.readings import Readings


class Laps:
    """Laps of one thread; the first begins with the first call of `end`.

    Args:
        clock: Nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._mark: int | None = None
        self._counted = 0  # nanoseconds
        self._readings = Readings()  # of a clock that stands still while laps do not count
        self.other_seconds = 0.0  # of all laps that do not count

    def end(self, *, counts: bool) -> None:
        """A lap ends here, and the next begins."""
        now = self._clock()
        if self._mark is None:
            self._readings.add(0)
        elif counts:
            self._counted += now - self._mark
            self._readings.add(self._counted)
        else:
            self.other_seconds += (now - self._mark) / 1e9
        self._mark = now

    @property
    def seconds(self) -> float:
        """Of all laps that count."""
        return self._counted / 1e9

    def lap_seconds(self) -> NDArray[np.float64]:
        """Of each lap that counts, or means of as many in a row as memory asks for."""
        return self._readings.step_seconds()
