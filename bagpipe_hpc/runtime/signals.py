"""Signals to a rank ask the oracle to stop the job.

    any rank   the first of SIGTERM, SIGINT,   -- StopRequest -->   oracle: a checkpoint at the next boundary, then
               SIGHUP, SIGUSR1                                      every rank leaves
    any rank   another one, a second later or more                  leaves at once, and the launcher ends the others

A thread of its own waits for signals, so that a rank hears them while its main thread is inside MPI or Horovod.
Launchers and batch systems may both pass on one signal, so signals within a second of the first are the same request.
A signal that arrives while a command starts is kept until a job listens (early_signals.py).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bagpipe_hpc.early_signals import GRACEFUL, MAY_BE_IGNORED, REPEAT_SECONDS, take_kept_signals
from bagpipe_hpc.rank_thread import start_thread

_CAUSE = (
    "If nobody asked for it, another rank failed: its own message or the launcher's says which. If that says killed by "
    "signal 9, most often its node ran out of memory: lower cache.rows or training.batch_size, or use more nodes"
)


@contextmanager
def listening_for_signals(
    ask_to_stop: Callable[[str], object],
    name: str,
    *,
    speaks: bool,
    end_at_once: Callable[[signal.Signals], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Inside the block, the first signal asks the oracle to stop the job, another one ends this process.

    Outside of the main thread, Python lets nobody handle signals: they do what they did before.

    Args:
        ask_to_stop: Sends the reason to the oracle; called by a thread.
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
    hearing = _Hearing(ask_to_stop, name, speaks, end_at_once or _leave, clock)
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
        ask_to_stop: Callable[[str], object],
        name: str,
        speaks: bool,
        end_at_once: Callable[[signal.Signals], object],
        clock: Callable[[], float],
    ) -> None:
        self._ask_to_stop, self._name, self._speaks = ask_to_stop, name, speaks
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
            self._ask_to_stop(f"{self._name} got {signum.name}")
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
