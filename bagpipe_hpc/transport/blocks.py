"""Rows that belong to several ranks, block by block: the block of rank 0 first, then that of rank 1, and so on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def blocks_by_rank(
    rows: NDArray[Scalar], counts: NDArray[np.int32 | np.int64]
) -> Iterator[tuple[int, NDArray[Scalar]]]:
    """Yield each rank that has rows, and its block.

    Args:
        rows: Of any dtype, shape (counts.sum(), ...).
        counts: How many rows each rank has, int32 or int64, shape (num_ranks,).
    """
    start = 0
    for rank, count in enumerate(counts.tolist()):
        if count:
            yield rank, rows[start : start + count]
            start += count
