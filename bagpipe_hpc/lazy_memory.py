"""Large arrays that take memory only for the pages that are touched."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAP_NORESERVE = 0x4000  # Linux; Python names it from 3.13 on


def lazy_zeros(shape: int | tuple[int, ...], dtype: DTypeLike, *, max_huge_bytes: int = 0) -> NDArray[Any]:
    """Return an array of zeros. It takes memory page by page, 4 KiB each, when its elements are first touched.

    An array that numpy allocates differs in two ways. The system may refuse it, because it reserves memory for all of
    it. And numpy asks for huge pages, so every touched element may take 2 MiB.

    Args:
        shape: Of the array.
        dtype: Its type.
        max_huge_bytes: An array of at most this size asks for huge pages, too. Random access is faster with them, and
            the size bounds the memory that they can waste.
    Returns:
        An array of the given shape and type, all elements 0.
    """
    dtype = np.dtype(dtype)
    num_bytes = dtype.itemsize * math.prod(shape if isinstance(shape, tuple) else (shape,))
    if num_bytes == 0:
        return np.zeros(shape, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    # Some systems give huge pages to every process that does not refuse them.
    with suppress(OSError):  # of a kernel that is built without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE if num_bytes <= max_huge_bytes else mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
