"""The C library's heap: keeping what is freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system.

    Arrays of a megabyte that come and go with every iteration otherwise cost a page fault per 4 KiB, each of them as
    much as copying the page. All threads share one heap, as arrays go from thread to thread. Without effect where the
    C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
