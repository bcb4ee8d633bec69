"""The processor time of each thread of this process, sampled while the process runs."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.25
_OWN_NAME = "thread times"


@dataclass(frozen=True)
class Sample:
    """What all threads have computed so far.

    Args:
        time: Seconds since the epoch.
        seconds: Seconds of processor time by thread id, in user and kernel mode.
    """

    time: float
    seconds: dict[int, float]


class ThreadTimes:
    """Samples this process, in a thread, from `with` to the end of its block.

    `samples` has what was seen, and `names` the name of each thread: that of Python, or else that of the kernel.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.names: dict[int, str] = {}
        self._of_python: set[int] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name=_OWN_NAME, daemon=True)

    def __enter__(self) -> ThreadTimes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        is_over = False
        while not is_over:
            is_over = self._is_over.is_set()  # before the last sample, so that one is after the end
            seconds = {each.id: each.user_time + each.system_time for each in process.threads()}
            self.samples.append(Sample(time.time(), seconds))
            of_python = {each.native_id: each.name for each in threading.enumerate() if each.native_id}
            # A library names its threads late. A thread of Python that has just ended keeps its name.
            self.names.update({thread: _kernel_name(thread) for thread in seconds.keys() - self._of_python})
            self.names.update(of_python | {os.getpid(): "main"})
            self._of_python.update(of_python)
            self._is_over.wait(SAMPLE_SECONDS)

    def shares_between(self, begin: float, end: float) -> dict[str, float]:
        """Return which share of a core each thread has computed between two times, by name, without the sampling.

        If threads have the same name, the one that has computed most counts.

        Args:
            begin: Seconds since the epoch.
            end: Seconds since the epoch, later than `begin` by several samples.
        """
        shares = shares_of_threads(self.samples, begin, end)
        by_name: dict[str, float] = {}
        for thread, share in shares.items():
            name = self.names[thread]
            if name != _OWN_NAME:
                by_name[name] = max(share, by_name.get(name, 0.0))
        return by_name


def shares_of_threads(samples: list[Sample], begin: float, end: float) -> dict[int, float]:
    """Return which share of a core each thread has computed between two times, by thread id.

    Only threads count that live all the time. Returns nothing if fewer than two samples lie between the two times.

    Args:
        samples: In the order of their times.
        begin: Seconds since the epoch.
        end: Seconds since the epoch.
    """
    times = [sample.time for sample in samples]
    inside = samples[bisect_left(times, begin) : bisect_right(times, end)]
    if len(inside) < 2:
        return {}
    first, last = inside[0], inside[-1]
    elapsed = last.time - first.time
    common = first.seconds.keys() & last.seconds.keys()
    return {thread: (last.seconds[thread] - first.seconds[thread]) / elapsed for thread in sorted(common)}


def _kernel_name(thread: int) -> str:
    try:
        return Path(f"/proc/self/task/{thread}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # the thread has ended
        return f"thread {thread}"
