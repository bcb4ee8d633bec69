"""Threads of a rank. A thread passes on to the threads that it starts which rank they work for: tracer, name and job.

In most jobs a process plays one rank. In a job that runs in one process, each rank has a thread, which starts others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

from bagpipe_hpc.threaded_job import JobIsOverError


def start_thread(name: str, work: Callable[..., object], *args: Any) -> threading.Thread:
    """Start a daemon thread that works for the rank of the calling thread."""
    thread = threading.Thread(target=copy_context().run, args=(_work, work, *args), name=name, daemon=True)
    thread.start()
    return thread


def single_thread_pool(name: str) -> ThreadPoolExecutor:
    """Return a pool with one thread, which works for the rank of the calling thread."""
    return ThreadPoolExecutor(1, name, initializer=_take_over, initargs=(copy_context(),))


def _work(work: Callable[..., object], *args: Any) -> None:
    with suppress(JobIsOverError):
        work(*args)


def _take_over(context: Context) -> None:
    for variable, value in context.items():
        variable.set(value)
