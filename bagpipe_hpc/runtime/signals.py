"""Signals to a rank. A rank that gets one asks the oracle to stop the job.

    any rank   gets SIGTERM, SIGINT, SIGHUP    -- StopRequest -->   oracle: checkpoint at the next boundary; then
               or SIGUSR1                                           every rank ends
    any rank   gets another one, a second later or more             this rank ends at once; the launcher ends the others

A separate thread waits for signals, so that a rank handles them while its main thread is inside MPI or Horovod. A
launcher and a batch system may both pass on one signal, so signals within a second of the first are the same request.
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
    "If nobody asked for this, another rank has failed: its own message or that of the launcher says which one. If the "
    "launcher says that the rank was killed by signal 9, most often its node ran out of memory: lower cache.rows or "
    "training.batch_size, or use more nodes"
)


@contextmanager
def listening_for_signals(
    ask_to_stop: Callable[[str], object],
    name: str,
    *,
    prints: bool,
    end_at_once: Callable[[signal.Signals], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Handle signals inside the block: the first asks the oracle to stop the job, another one ends this process.

    Python handles signals in the main thread only. If another thread calls this, signals do what they did before.

    Args:
        ask_to_stop: Sends the reason to the oracle. A thread calls it.
        name: The name of this rank in notes.
        prints: Whether this rank prints notes. Not all ranks should: launchers signal every rank when one has died.
        end_at_once: Called for another signal. None: it ends the process.
        clock: Returns seconds.
    Communication: none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    handler = _SignalHandler(ask_to_stop, name, prints, end_at_once or _exit_at_once, clock)
    listener = start_thread("signals", handler.listen, read_end)
    handled = [signum for signum in GRACEFUL if signum not in MAY_BE_IGNORED or not _is_ignored(signum)]
    before = {signum: signal.signal(signum, lambda *_: None) for signum in handled}
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for signum in take_kept_signals():
        os.write(write_end, bytes([signum]))
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for signum, former in before.items():
            signal.signal(signum, former)
        os.close(write_end)  # the listener reads what is left and ends
        listener.join()
        os.close(read_end)


class _SignalHandler:
    """Handles the signals to a rank. The arguments are those of `listening_for_signals`."""

    def __init__(
        self,
        ask_to_stop: Callable[[str], object],
        name: str,
        prints: bool,
        end_at_once: Callable[[signal.Signals], object],
        clock: Callable[[], float],
    ) -> None:
        self._ask_to_stop, self._name, self._prints = ask_to_stop, name, prints
        self._end_at_once, self._clock = end_at_once, clock
        self._asked_at: float | None = None

    def listen(self, read_end: int) -> None:
        """Handle signals until the other end of the pipe is closed."""
        while received := os.read(read_end, 1):
            self.take(signal.Signals(received[0]))

    def take(self, signum: signal.Signals) -> None:
        """Handle one signal."""
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
            self._print(
                f"got {signum.name}: the job writes a checkpoint after the next iteration and ends with exit code 75; "
                "another signal ends it at once"
            )
            self._ask_to_stop(f"{self._name} got {signum.name}")
        elif now - self._asked_at >= REPEAT_SECONDS:
            self._print(f"got {signum.name} after an earlier signal and ends at once")
            self._end_at_once(signum)

    def _print(self, what: str) -> None:
        if self._prints:
            cause = f". {_CAUSE}" if self._end_at_once is _exit_at_once else ""  # a local job has no other processes
            note = f"bagpipe: note: {self._name} on host {socket.gethostname()} {what}{cause}\n"
            with suppress(OSError, ValueError):  # a notebook's stderr has no file number
                os.write(sys.stderr.fileno(), note.encode())


def _exit_at_once(signum: signal.Signals) -> None:
    os._exit(128 + signum)


def _is_ignored(signum: signal.Signals) -> bool:
    return signal.getsignal(signum) is signal.SIG_IGN
