"""Asking a job to stop: signals to any rank, and a budget of time.

    any rank   SIGTERM, SIGUSR1   --- STOP --->   oracle: checkpoint at the next boundary, then everybody leaves
    any rank   a second one, or SIGINT            leaves at once, and the launcher ends the others

A thread waits for signals, so that they are heard while the main thread is inside MPI or Horovod.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from mpi4py import MPI

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.topology import ORACLE_RANK
from bagpipe_hpc.transport.polite import receive_bytes

STOP_TAG, FILES_TAG = 1, 2  # on Communicators.events
GRACEFUL = (signal.SIGTERM, signal.SIGUSR1)

_CAUSE = (
    "Unless you asked for it, another rank failed; its own message or the launcher's names it. If it says killed by "
    "signal 9, most often its node ran out of memory: lower cache.rows or training.batch_size, or use more nodes"
)


class StopRequests:
    """Reasons to stop the job, on their way to the oracle.

    Args:
        events: Everybody -> oracle.
    """

    def __init__(self, events: MPI.Intracomm) -> None:
        self._events = events
        self._own: SimpleQueue[str] = SimpleQueue()

    def send(self, reason: str) -> None:
        """Ask for it, on any rank, in any thread."""
        if self._events.rank == ORACLE_RANK:
            self._own.put(reason)
        else:
            self._events.Send([reason.encode(), MPI.BYTE], ORACLE_RANK, STOP_TAG)

    def poll(self) -> str:
        """Oracle: a reason that has arrived, or an empty text; never blocks."""
        with suppress(Empty):
            return self._own.get_nowait()
        if self._events.Iprobe(tag=STOP_TAG):
            return receive_bytes(self._events, MPI.ANY_SOURCE, STOP_TAG).decode()
        return ""


@contextmanager
def listening_for_signals(requests: StopRequests, name: str, *, speaks: bool) -> Iterator[None]:
    """Inside the block, the first signal asks the oracle to stop the job, the second ends this process.

    Args:
        name: What messages call this rank.
        speaks: Whether to print a note; launchers signal every rank when one has died.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    listener = threading.Thread(target=_listen, args=(read_end, requests, name, speaks), name="signals", daemon=True)
    listener.start()
    before = {signum: signal.signal(signum, lambda *_: None) for signum in (*GRACEFUL, signal.SIGINT)}
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(write_end)  # the listener reads to the end
        listener.join()
        os.close(read_end)


def _listen(read_end: int, requests: StopRequests, name: str, speaks: bool) -> None:
    has_asked = False
    while received := os.read(read_end, 1):
        signum = signal.Signals(received[0])
        told = f"bagpipe: note: {name} on host {socket.gethostname()} was told to stop ({signum.name})"
        if signum not in GRACEFUL or has_asked:
            if speaks:
                os.write(sys.stderr.fileno(), f"{told} and leaves at once. {_CAUSE}\n".encode())
            os._exit(128 + signum)
        if speaks:
            patience = "a checkpoint after the next iteration, then exit code 75; a second signal stops at once"
            os.write(sys.stderr.fileno(), f"{told}: {patience}. {_CAUSE}\n".encode())
        has_asked = True
        requests.send(f"{name} got {signum.name}")


def parse_time_limit(text: str) -> float:
    """Seconds of a duration as Slurm writes them: S, M:S, H:M:S, D-H:M:S.

    Raises:
        ConfigError: it is none, or not positive.
    """
    if found := re.fullmatch(r"(?:(?:(?:(\d+)-)?(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", text.strip()):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total > 0:
            return total
    raise ConfigError(f"--time-limit {text!r} is no duration: give seconds, M:S, H:M:S or D-H:M:S, above 0")


def seconds_left(time_limit: str | None, environment: Mapping[str, str], now: float) -> float | None:
    """The budget from now on: as told, else until the end of the Slurm job; None: unlimited.

    Args:
        now: Seconds since the epoch.
    """
    if time_limit is not None:
        return parse_time_limit(time_limit)
    try:
        return max(0.0, float(environment["SLURM_JOB_END_TIME"]) - now)
    except (KeyError, ValueError):
        return None


class Budget:
    """When to stop, so that the last checkpoint is written in time.

    Args:
        seconds: From the start of the job; None: no limit.
        start: What the clock reads at the start.
    """

    RESERVE_SECONDS = 15.0  # to start a checkpoint and to leave
    BACKLOG = 20  # iterations between asking for a boundary and reaching it

    def __init__(self, seconds: float | None, start: float) -> None:
        self._seconds = seconds
        self._start = start

    def is_spent(self, now: float, iteration_seconds: float, write_seconds: float) -> bool:
        """Whether it is time to stop.

        Args:
            iteration_seconds: Of one iteration.
            write_seconds: Of the slowest checkpoint so far; the last one may take twice as long.
        """
        if self._seconds is None:
            return False
        reserve = self.RESERVE_SECONDS + self.BACKLOG * iteration_seconds + 2 * write_seconds
        return now - self._start > self._seconds - min(reserve, self._seconds / 2)
