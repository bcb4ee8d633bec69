"""A job whose ranks are threads of one process. The first failure ends it for all of them, and the process lives on.

If every rank is a process, a failure ends the processes. This module then has nothing to do: `current_job` is None.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")

SECONDS_PER_LOOK = 0.1

_job: ContextVar[ThreadedJob | None] = ContextVar("job", default=None)


class JobIsOverError(Exception):
    """Another rank failed, or the caller left the job, so this thread need not wait any longer."""


class ThreadedJob:
    """Whether the job goes on and, if not, why."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: tuple[str, BaseException] | None = None

    def fail(self, name: str, error: BaseException) -> None:
        """End the job. If there are several failures, the first one counts, because the others follow from it."""
        with self._lock:
            if self._failure is None and not isinstance(error, JobIsOverError):
                self._failure = name, error

    @property
    def failure(self) -> tuple[str, BaseException] | None:
        """The rank that failed first, and its error; None if none has failed."""
        return self._failure

    def check(self) -> None:
        """Raise JobIsOverError if the job is over."""
        if self._failure is not None:
            raise JobIsOverError

    def adopt(self) -> None:
        """Make the calling thread, and those that it starts, work for this job."""
        _job.set(self)

    @staticmethod
    def leave() -> None:
        """Make the calling thread work for no such job."""
        _job.set(None)


def current_job() -> ThreadedJob | None:
    """Return the job that the calling thread works for, if its ranks are threads."""
    return _job.get()


def take(queue: Queue[T]) -> T:
    """Wait for an item, remove it from the queue and return it.

    Raises:
        JobIsOverError: The job is over.
    """
    job = _job.get()
    if job is None:
        return queue.get()
    while True:
        try:
            return queue.get(timeout=SECONDS_PER_LOOK)
        except Empty:
            job.check()


def put(queue: Queue[T], item: T) -> None:
    """Wait for room in the queue and add an item.

    Raises:
        JobIsOverError: The job is over.
    """
    job = _job.get()
    if job is None:
        return queue.put(item)
    while True:
        try:
            return queue.put(item, timeout=SECONDS_PER_LOOK)
        except Full:
            job.check()


def wait_on(changed: threading.Condition) -> None:
    """Wait until notified, or for a short time. The caller holds the lock, and checks its condition again afterwards.

    Raises:
        JobIsOverError: The job is over.
    """
    job = _job.get()
    changed.wait(None if job is None else SECONDS_PER_LOOK)
    if job is not None:
        job.check()
