"""Threads of a rank. A thread passes on to the threads that it starts which rank they work for: tracer, name and job.

In most jobs a process plays one rank. In a job that runs in one process, each rank has a thread, which starts others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any

from bagpipe_hpc.threaded_job import JobIsOverError

_TASKS = Path("/proc/self/task")


def start_thread(name: str, work: Callable[..., object], *args: Any) -> threading.Thread:
    """Start a daemon thread that works for the rank of the calling thread."""
    thread = threading.Thread(target=copy_context().run, args=(_work, work, *args), name=name, daemon=True)
    thread.start()
    return thread


def single_thread_pool(name: str) -> ThreadPoolExecutor:
    """Return a pool with one thread, which works for the rank of the calling thread."""
    return ThreadPoolExecutor(1, name, initializer=_take_over, initargs=(copy_context(),))


@contextmanager
def naming_new_threads(name: str) -> Iterator[None]:
    """Give threads that libraries start inside the block a name in the kernel, where `top -H` and profilers show it.

    Args:
        name: At most 15 characters.
    """
    before = set(_TASKS.glob("*"))
    yield
    for path in set(_TASKS.glob("*")) - before:
        with suppress(OSError):  # the thread has ended, or this system does not allow it
            (path / "comm").write_text(name, encoding="ascii")


def _work(work: Callable[..., object], *args: Any) -> None:
    with suppress(JobIsOverError):
        work(*args)


def _take_over(context: Context) -> None:
    for variable, value in context.items():
        variable.set(value)
