"""Asking a job to stop: signals to any rank, and a budget of time.

    any rank   the first of SIGTERM, SIGINT,   --- STOP --->   oracle: checkpoint at the next boundary, then
               SIGHUP, SIGUSR1                                 everybody leaves
    any rank   another one, a second later or more             leaves at once, and the launcher ends the others

A thread waits for signals, so that they are heard while the main thread is inside MPI or Horovod. Launchers and batch
systems may both pass on one signal: what comes within a second of the first is the same request. A signal that comes
while a command starts is kept until then (early_signals.py).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from mpi4py import MPI

from bagpipe_hpc.early_signals import GRACEFUL, MAY_BE_IGNORED, REPEAT_SECONDS, take_kept_signals
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.topology import ORACLE_RANK
from bagpipe_hpc.transport.polling import receive_bytes

STOP_TAG, FILES_TAG = 1, 2  # on Communicators.events

_CAUSE = (
    "If nobody asked for it, another rank failed: its own message or the launcher's says which. If that says killed by "
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
def listening_for_signals(
    requests: StopRequests,
    name: str,
    *,
    speaks: bool,
    end_at_once: Callable[[signal.Signals], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Inside the block, the first signal asks the oracle to stop the job, another one ends this process.

    Outside of the main thread, Python lets nobody handle signals: they do what they did before.

    Args:
        name: What messages call this rank.
        speaks: Whether to print a note; launchers signal every rank when one has died.
        end_at_once: What another signal does instead of ending the process.
        clock: Seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    hearing = _Hearing(requests, name, speaks, end_at_once or _leave, clock)
    listener = start_thread("signals", hearing.listen, read_end)
    heard = [signum for signum in GRACEFUL if signum not in MAY_BE_IGNORED or not _is_ignored(signum)]
    before = {signum: signal.signal(signum, lambda *_: None) for signum in heard}
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for signum in take_kept_signals():
        os.write(write_end, bytes([signum]))
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(write_end)  # the listener reads to the end
        listener.join()
        os.close(read_end)


class _Hearing:
    """What a rank does about the signals it gets."""

    def __init__(
        self,
        requests: StopRequests,
        name: str,
        speaks: bool,
        end_at_once: Callable[[signal.Signals], object],
        clock: Callable[[], float],
    ) -> None:
        self._requests, self._name, self._speaks = requests, name, speaks
        self._end_at_once, self._clock = end_at_once, clock
        self._asked_at: float | None = None

    def listen(self, read_end: int) -> None:
        """Take signals until the other end of the pipe is closed."""
        while received := os.read(read_end, 1):
            self.take(signal.Signals(received[0]))

    def take(self, signum: signal.Signals) -> None:
        """One signal has come."""
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
            patience = "a checkpoint after the next iteration, then exit code 75; another signal ends it at once"
            self._say(f"was told to stop ({signum.name}): {patience}")
            self._requests.send(f"{self._name} got {signum.name}")
        elif now - self._asked_at >= REPEAT_SECONDS:
            self._say(f"was told to stop ({signum.name}) once more and leaves at once")
            self._end_at_once(signum)

    def _say(self, what: str) -> None:
        if self._speaks:
            cause = f". {_CAUSE}" if self._end_at_once is _leave else ""  # else there is no other rank
            note = f"bagpipe: note: {self._name} on host {socket.gethostname()} {what}{cause}\n"
            with suppress(OSError, ValueError):  # a notebook's stderr has no file number
                os.write(sys.stderr.fileno(), note.encode())


def _leave(signum: signal.Signals) -> None:
    os._exit(128 + signum)


def _is_ignored(signum: signal.Signals) -> bool:
    return signal.getsignal(signum) is signal.SIG_IGN


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
