"""A clock read after every iteration of a job of any length, in bounded memory."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

CAPACITY = 1 << 17  # readings kept, 1 MiB


class Readings:
    """Readings of a rising clock in nanoseconds. Whenever they fill the memory, every other one is dropped."""

    def __init__(self) -> None:
        self._kept = array("q")
        self._stride = 1  # iterations from one that is kept to the next
        self._added = 0

    def add(self, nanoseconds: int) -> None:
        """The clock after one more iteration."""
        if self._added % self._stride == 0:
            if len(self._kept) == CAPACITY:
                self._kept = self._kept[::2]
                self._stride *= 2
            self._kept.append(nanoseconds)
        self._added += 1

    def step_seconds(self) -> NDArray[np.float64]:
        """Of an iteration, between each two readings that are kept: the mean where some were dropped."""
        return np.diff(self._kept).astype(np.float64) / (1e9 * self._stride)
