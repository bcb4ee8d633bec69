"""The C library's heap."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h
_THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of returning it to the system.

    Otherwise each array of a megabyte that an iteration makes and frees costs a page fault per 4 KiB, and a page fault
    takes as long as copying the page. All threads share one heap, because arrays move from thread to thread. If the C
    library is not glibc, this has no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
