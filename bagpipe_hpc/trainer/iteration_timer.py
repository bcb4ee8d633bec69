"""The time of each iteration of one thread, training and evaluation apart, in bounded memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CAPACITY = 1 << 17  # clock readings kept, 1 MiB


class IterationTimer:
    """Times iterations; the first one begins with the first call of `end_iteration`.

    Args:
        clock: Returns nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._began: int | None = None  # the iteration that is being timed
        self._counted = 0  # nanoseconds
        self._readings = _Readings()  # of a clock that runs during counted iterations only
        self.other_seconds = 0.0  # of all iterations that do not count

    def end_iteration(self, *, counts: bool) -> None:
        """Note that an iteration ends, and that the next one begins.

        Args:
            counts: Whether it was a training iteration.
        """
        now = self._clock()
        if self._began is None:
            self._readings.add(0)
        elif counts:
            self._counted += now - self._began
            self._readings.add(self._counted)
        else:
            self.other_seconds += (now - self._began) / 1e9
        self._began = now

    @property
    def seconds(self) -> float:
        """The time of all iterations that count."""
        return self._counted / 1e9

    def iteration_seconds(self) -> NDArray[np.float64]:
        """Return the time of each iteration that counts, float64 (n,).

        Where there were too many iterations to keep, each element is the mean of several in a row.
        """
        return self._readings.differences()


class _Readings:
    """Readings of a rising clock in nanoseconds. Whenever they fill the memory, every other one is dropped."""

    def __init__(self) -> None:
        self._kept = array("q")
        self._stride = 1  # iterations from one reading that is kept to the next
        self._added = 0

    def add(self, nanoseconds: int) -> None:
        if self._added % self._stride == 0:
            if len(self._kept) == CAPACITY:
                self._kept = self._kept[::2]
                self._stride *= 2
            self._kept.append(nanoseconds)
        self._added += 1

    def differences(self) -> NDArray[np.float64]:
        """Return seconds per iteration between neighbouring readings, float64 (n,)."""
        return np.diff(self._kept).astype(np.float64) / (1e9 * self._stride)
