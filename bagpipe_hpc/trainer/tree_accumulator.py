"""A sum in the order of a binary tree, whose contributions come one after the other."""

from __future__ import annotations

import torch


class TreeAccumulator:
    """Adds up contributions 0, 1, 2, ...: neighbours first, then neighbours of the results.

    For 2**n contributions, at most n + 1 tensors are kept at the same time.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[int, torch.Tensor]] = []  # number of contributions and their sum, ever fewer

    def add(self, contribution: torch.Tensor) -> None:
        """Add the next contribution. It may be overwritten."""
        count, total = 1, contribution
        while self._sums and self._sums[-1][0] == count:
            before = self._sums.pop()[1]
            total = before.add_(total)
            count *= 2
        self._sums.append((count, total))

    def total(self) -> torch.Tensor:
        """Return the sum of all contributions, whose number is a power of two, and forget them."""
        ((_, total),) = self._sums
        self._sums = []
        return total
