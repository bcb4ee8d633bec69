"""Memory for a shard that may be much larger than what is ever touched of it."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

_MAP_NORESERVE = 0x4000  # Linux; Python names it from 3.13 on


def lazy_rows(num_rows: int, row_width: int) -> NDArray[np.float32]:
    """Zero rows, float32 (num_rows, row_width), that cost memory page by page as they are touched.

    Unlike numpy's own allocation, nothing is reserved up front (a shard may exceed the machine's memory as long as the
    rows touched do not) and no huge pages are asked for (one scattered row would cost 2 MiB).
    """
    num_bytes = 4 * num_rows * row_width
    if num_bytes == 0:
        return np.zeros((num_rows, row_width), dtype=np.float32)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, num_bytes, flags=flags), dtype=np.float32).reshape(num_rows, row_width)
