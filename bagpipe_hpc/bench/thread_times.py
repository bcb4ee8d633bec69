"""The processor time of each thread of this process, sampled while the process runs."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from pathlib import Path

import psutil

from bagpipe_hpc.bench.sampler import Sampler

SAMPLE_SECONDS = 0.25
_OWN_NAME = "thread times"
Seconds = dict[int, float]  # of processor time in user and kernel mode, so far, by thread id


class ThreadTimes(Sampler[Seconds]):
    """Samples this process. `names` has the name of each thread: that of Python, or else that of the kernel."""

    def __init__(self) -> None:
        super().__init__(_OWN_NAME, self._read_threads, SAMPLE_SECONDS)
        self.names: dict[int, str] = {}
        self._of_python: set[int] = set()
        self._process = psutil.Process()

    def _read_threads(self) -> Seconds:
        seconds = {each.id: each.user_time + each.system_time for each in self._process.threads()}
        of_python = {each.native_id: each.name for each in threading.enumerate() if each.native_id}
        # A library names its threads late. A thread of Python that has just ended keeps its name.
        self.names.update({thread: _kernel_name(thread) for thread in seconds.keys() - self._of_python})
        self.names.update(of_python | {os.getpid(): "main"})
        self._of_python.update(of_python)
        return seconds

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


def shares_of_threads(samples: list[tuple[float, Seconds]], begin: float, end: float) -> dict[int, float]:
    """Return which share of a core each thread has computed between two times, by thread id.

    Only threads count that live all the time. Returns nothing if fewer than two samples lie between the two times.

    Args:
        samples: Times and what the threads had computed then, in the order of the times.
        begin: Seconds since the epoch.
        end: Seconds since the epoch.
    """
    times = [moment for moment, _ in samples]
    inside = samples[bisect_left(times, begin) : bisect_right(times, end)]
    if len(inside) < 2:
        return {}
    (start, first), (stop, last) = inside[0], inside[-1]
    return {thread: (last[thread] - first[thread]) / (stop - start) for thread in sorted(first.keys() & last.keys())}


def _kernel_name(thread: int) -> str:
    try:
        return Path(f"/proc/self/task/{thread}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # the thread has ended
        return f"thread {thread}"
