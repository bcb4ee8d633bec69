"""The sum of one buffer per trainer in a fixed order, and how its parts travel. Pure: no MPI.

The sum of the contributions c0, c1, ..., of T trainers is a binary tree over the trainer ranks. Neighbours are added
first, then neighbours of the results; if their number is odd, the last one passes up unchanged:

    T = 2    c0 + c1
    T = 3    (c0 + c1) + c2
    T = 4    (c0 + c1) + (c2 + c3)
    T = 5    ((c0 + c1) + (c2 + c3)) + c4

Every element of every buffer is summed in this order, whatever the size of the buffer and the way its parts travel. So
the bits of the sum depend on the contributions and on T only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

MOST_WHOLE_BYTES = 64 << 10  # what a trainer sends at most to save the second round


def tree_order(num_contributions: int) -> list[tuple[int, int]]:
    """Return the additions of the tree, in an order that can be played: (i, j) adds contribution j to contribution i.

    The last addition is into contribution 0, which then is the sum.
    """
    additions = []
    stride = 1
    while stride < num_contributions:
        additions += [(i, i + stride) for i in range(0, num_contributions - stride, 2 * stride)]
        stride *= 2
    return additions


def add_up(contributions: Sequence[FloatArray], additions: Sequence[tuple[int, int]], total: FloatArray) -> None:
    """Write the sum of the contributions to `total`.

    Args:
        contributions: float32, shape (n,) each, by trainer rank. They are overwritten.
        additions: What `tree_order` returns for their number, at least 2.
        total: float32, shape (n,); may be one of the contributions.
    """
    *first, (last, other) = additions
    for i, j in first:
        np.add(contributions[i], contributions[j], out=contributions[i])
    np.add(contributions[last], contributions[other], out=total)


def travels_whole(num_elements: int, num_trainers: int) -> bool:
    """Return whether every trainer sends its whole buffer to every other one, and each of them adds up all.

    That is one round of messages. Otherwise there are two: each trainer gets the contributions to its segment, adds
    them up, and sends the sum to the others. Two rounds send 2 n (T - 1) / T bytes per trainer instead of n (T - 1), so
    they pay for large buffers only. For two trainers the bytes are equal.
    """
    if num_trainers == 2 or num_elements < num_trainers:
        return True
    return 4 * num_elements * (num_trainers - 1) <= MOST_WHOLE_BYTES


def segments_of(num_elements: int, num_trainers: int) -> list[slice]:
    """Return the segment of the buffer that each trainer adds up. Their lengths differ by one element at most."""
    bounds = [num_elements * trainer // num_trainers for trainer in range(num_trainers + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
