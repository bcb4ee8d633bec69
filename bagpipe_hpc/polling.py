"""Waiting without keeping a core busy: MPI's own blocking calls spin, and ranks may share cores.

A wait polls a few times and then sleeps between polls, longer and longer, because a sleep costs the system more than a
poll does. A wait never yields: on a core that other threads keep busy, a scheduler lets a thread wait for whole time
slices of the others after each yield, while a thread that sleeps runs again soon after its time is over.

How long a thread sleeps depends on how long it has waited (`pause_after`). A short wait is noticed within microseconds,
and a long one costs about one hundredth of a core and is at most a few hundredths longer. Polling also drives the
progress of MPI, which one-sided transfers over a network need at their target. So the thread of a server sleeps shortly
as long as the job may be training (`serve_others`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bagpipe_hpc.threaded_job import current_job

_POLLS = 20  # about 20 microseconds
_FIRST_SECONDS, _SHORT_SECONDS, _LONG_SECONDS = 20e-6, 250e-6, 10e-3
_SERVING_SECONDS = 1.0  # longer than most iterations
_of_thread = threading.local()


def pause_after(waited: float, *, serves: bool) -> float:
    """Return for how many seconds a thread sleeps before it polls again.

    Args:
        waited: How many seconds it has waited so far.
        serves: Whether transfers of other ranks need this thread to poll.
    """
    short = min(_FIRST_SECONDS + waited / 6, _SHORT_SECONDS)
    if serves and waited < _SERVING_SECONDS:
        return short
    return max(short, min(waited / 64, _LONG_SECONDS))


def serve_others() -> None:
    """Note that one-sided transfers of other ranks need the calling thread to poll while it waits."""
    _of_thread.serves = True


def wait_until(ready: Callable[[], bool]) -> None:
    """Poll until ready() returns true.

    Raises:
        JobIsOverError: the ranks are threads of this process, and another one has failed.
    """
    if ready():
        return
    job = current_job()
    serves = getattr(_of_thread, "serves", False)
    start, began, polls = time.thread_time_ns(), time.monotonic(), 0
    while not ready():
        polls += 1
        if job is not None:
            job.check()
        if polls > _POLLS:
            time.sleep(pause_after(time.monotonic() - began, serves=serves))
    _of_thread.polling_ns = getattr(_of_thread, "polling_ns", 0) + time.thread_time_ns() - start


def working_ns() -> int:
    """Return the CPU time of the calling thread in nanoseconds, without what it spent on polling."""
    return time.thread_time_ns() - int(getattr(_of_thread, "polling_ns", 0))
