"""Waiting without keeping a core busy: MPI's own blocking calls spin, and ranks may share cores.

A wait polls a few times and then sleeps between polls, longer and longer, because a sleep costs the system more than a
poll does. A wait never yields: on a core that other threads keep busy, a scheduler lets a thread wait for whole time
slices of the others after each yield, while a thread that sleeps runs again soon after its time is over. Polling also
drives the progress of MPI, which one-sided transfers over a network need at their target. So no sleep is long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bagpipe_hpc.threaded_job import current_job

_POLLS = 20  # about 20 microseconds
_FIRST_SLEEP_SECONDS, _LONGEST_SLEEP_SECONDS = 20e-6, 250e-6
_GROWTH = 1.2
_of_thread = threading.local()


def wait_until(ready: Callable[[], bool]) -> None:
    """Poll until ready() returns true.

    Raises:
        JobIsOverError: the ranks are threads of this process, and another one has failed.
    """
    if ready():
        return
    job = current_job()
    start, polls, pause = time.thread_time_ns(), 0, _FIRST_SLEEP_SECONDS
    while not ready():
        polls += 1
        if job is not None:
            job.check()
        if polls > _POLLS:
            time.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST_SLEEP_SECONDS)
    _of_thread.polling_ns = getattr(_of_thread, "polling_ns", 0) + time.thread_time_ns() - start


def working_ns() -> int:
    """Return the CPU time of the calling thread in nanoseconds, without what it spent on polling."""
    return time.thread_time_ns() - int(getattr(_of_thread, "polling_ns", 0))
