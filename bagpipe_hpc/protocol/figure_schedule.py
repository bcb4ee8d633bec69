"""When servers and trainers tell the oracle their figures, so that the oracle knows how many messages to expect. Pure.

A rank tells them after every 20th of its first 2,000 iterations. Then the distance doubles as often as the number of
iterations does. So a job of a million iterations has a few hundred messages of each rank.
"""

from __future__ import annotations

EVERY = 20
DENSE = 2000


def is_due(count: int) -> bool:
    """Return whether figures are due after the first `count` iterations of a start."""
    return count > 0 and count % _stride(count) == 0


def num_due(count: int) -> int:
    """Return how often figures are due in the first `count` iterations of a start."""
    number = min(count, DENSE) // EVERY
    first, stride = DENSE, 2 * EVERY
    while first < count:
        number += min(count, 2 * first) // stride - first // stride
        first, stride = 2 * first, 2 * stride
    return number


def _stride(count: int) -> int:
    """Return the distance of the messages around an iteration."""
    return EVERY << ((count - 1) // DENSE).bit_length()
