"""Waiting without burning the core: MPI's blocking calls spin, and ranks may share cores.

A wait polls a few times, then sleeps between polls, longer and longer: a sleep costs the system more than a poll does.
It never yields: on a core that others keep busy, schedulers make a thread wait for their whole time slices after each
yield, while one that sleeps comes back soon after its time. Polling also drives MPI progress, which one-sided transfers
over a network need at their target: so no sleep is long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

from bagpipe_hpc.threaded_job import current_job
from bagpipe_hpc.transport.memory_comm import MemoryComm

_POLLS = 20  # about 20 microseconds
_FIRST_SLEEP_SECONDS, _LONGEST_SLEEP_SECONDS = 20e-6, 250e-6
_GROWTH = 1.2
_of_thread = threading.local()


def wait_until(ready: Callable[[], bool]) -> None:
    """Poll until ready() is true.

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
    """CPU time of the calling thread, less what it spent on polling."""
    return time.thread_time_ns() - int(getattr(_of_thread, "polling_ns", 0))


def wait_all(requests: Sequence[MPI.Request]) -> None:
    """Complete all requests."""
    if not requests:
        return
    if isinstance(requests[0], MPI.Request):
        wait_until(lambda: MPI.Request.Testall(list(requests)))
    else:  # the twin's
        wait_until(lambda: all(request.Test() for request in requests))


def take_bytes(comm: MPI.Intracomm | MemoryComm, source: int, tag: int = MPI.ANY_TAG) -> tuple[int, bytearray] | None:
    """Source and content of a message of any size, from anybody if need be; None where none has arrived.

    By a matched probe: over UCX, MPICH loses messages that a plain probe has seen to receives from any source.
    """
    if isinstance(comm, MemoryComm):
        return comm.take(source, tag)
    status = MPI.Status()
    message = comm.Improbe(source, tag, status)
    if message is None:
        return None
    buffer = bytearray(status.Get_count(MPI.BYTE))
    wait_all([message.Irecv([buffer, MPI.BYTE])])
    return status.source, buffer


def receive_bytes(comm: MPI.Intracomm | MemoryComm, source: int, tag: int = MPI.ANY_TAG) -> bytearray:
    """Receive one message of any size, from anybody if need be."""
    taken: tuple[int, bytearray] | None = None

    def arrived() -> bool:
        nonlocal taken
        taken = take_bytes(comm, source, tag)
        return taken is not None

    wait_until(arrived)
    assert taken is not None
    return taken[1]
