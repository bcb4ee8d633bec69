"""Arrays that may be much larger than what is ever touched of them."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAP_NORESERVE = 0x4000  # Linux; Python names it from 3.13 on


def lazy_zeros(shape: int | tuple[int, ...], dtype: DTypeLike, *, max_huge_bytes: int = 0) -> NDArray[Any]:
    """Return an array of zeros that costs memory page by page, 4 KiB each, as its elements are touched.

    numpy's own arrays differ in two ways. The system may refuse them, because it reserves memory for the whole array.
    And numpy asks for huge pages, so one scattered element costs 2 MiB.

    Args:
        max_huge_bytes: An array of at most this size asks for huge pages too. Random access is faster with them, and
            the size bounds what they can waste.
    """
    dtype = np.dtype(dtype)
    num_bytes = dtype.itemsize * math.prod(shape if isinstance(shape, tuple) else (shape,))
    if num_bytes == 0:
        return np.zeros(shape, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    # Where the system gives huge pages to every process, they must be refused.
    with suppress(OSError):  # of a kernel that is built without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE if num_bytes <= max_huge_bytes else mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
