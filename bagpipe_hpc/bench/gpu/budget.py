"""The time that `bagpipe bench gpu` may take, divided over what it still has to measure. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_SECONDS = 20.0  # that a run may take before it counts as hanging: kernels are compiled, libraries start


class TimeBudget:
    """The time left, and how long runs have taken.

    Args:
        seconds: The time for everything, from now on.
        clock: Returns seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin, self._end = clock(), clock() + seconds
        self._shares: float | None = None
        self._taken: dict[str, float] = {}

    @property
    def left(self) -> float:
        """The seconds left, 0 or more."""
        return max(0.0, self._end - self._clock())

    @property
    def used(self) -> float:
        """The seconds since the beginning."""
        return self._clock() - self._begin

    def begin_cell(self, num_cells: int) -> None:
        """Give the next cell its part of the time that is left.

        Args:
            num_cells: The number of cells that still come, with this one.
        """
        self._shares = self._clock() + self.left / num_cells

    @property
    def left_of_cell(self) -> float:
        """The seconds left of the part of the present cell; it may be below 0."""
        assert self._shares is not None
        return self._shares - self._clock()

    def note(self, name: str, seconds: float) -> None:
        """Note how long a run of this name has taken."""
        self._taken[name] = seconds

    def has_time_for(self, name: str) -> bool:
        """Return whether a run of this name would end in the time that is left, as far as earlier ones tell."""
        return self.left > self._taken.get(name, 0.0)

    @property
    def limit(self) -> float:
        """After how many seconds a run counts as hanging: twice what is left of the cell, and within the time left."""
        return max(1.0, min(self.left, max(LEAST_SECONDS, 2 * self.left_of_cell)))
