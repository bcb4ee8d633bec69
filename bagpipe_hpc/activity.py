"""Progress of a command on standard error: a line at the start of each phase, and at least every 10 seconds.

Commands use `showing_activity`. On a terminal it updates one line in place and erases it at the end. Elsewhere, as in
the log of a batch job, it writes plain lines. A thread writes them, even while the command computes or waits.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from bagpipe_hpc.pace import Pace, clock_text

SECONDS_PER_LINE = 10.0
SECONDS_PER_REFRESH = 0.2  # of a line that is updated in place

_USUAL_WIDTH = 80
_ERASE_LINE = "\r\x1b[K"


class Activity:
    """The phases of a command, and the progress of the current one. Several threads may use it.

    Args:
        stream: Where lines are written.
        is_live: Whether one line is updated in place, as on a terminal.
        clock: Returns seconds; tests inject their own.
    """

    def __init__(self, stream: TextIO, *, is_live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._is_live = is_live
        self._is_broken = False
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = ""
        self._done = self._total = self._written_done = 0
        self._begun = self._written = clock()
        self._pace = Pace(self._begun)

    def __call__(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Report the progress of a phase. A new phase is shown at once.

        Args:
            phase: The phase in words, such as "reading samples".
            done: How much is done, in any unit.
            total: How much there is to do, in the same unit; 0: not known.
        """
        with self._lock:
            is_new = phase != self._phase
            if is_new:
                self._finish_phase()
                self._phase = phase
                self._begun = self._clock()
                self._pace = Pace(self._begun, done)
            elif done > self._done:
                self._pace.note(self._clock(), done)
            self._done, self._total = done, total
            if is_new:
                self._write()

    def tick(self) -> None:
        """Write a line if it is due."""
        with self._lock:
            period = SECONDS_PER_REFRESH if self._is_live else SECONDS_PER_LINE
            if self._phase and self._clock() - self._written >= period:
                self._write()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Erase a line that is updated in place, so that the block may print."""
        with self._lock:
            self._erase()
            yield

    def end(self) -> None:
        """Stop writing, and erase a line that is updated in place."""
        with self._lock:
            self._finish_phase()
            self._phase = ""
            self._erase()

    def _finish_phase(self) -> None:
        """If a fraction of the phase was shown, show 100 %, so that the log does not end with a fraction."""
        if self._phase and not self._is_live and 0 < self._written_done < self._done == self._total:
            self._put(f"{self._phase}: {self._done:,} of {self._total:,} (100%)\n")

    def _write(self) -> None:
        self._written, self._written_done = self._clock(), self._done
        if self._is_live:
            self._put(_ERASE_LINE + self._text()[: _width_of(self._stream) - 1])
        else:
            self._put(self._text() + "\n")

    def _erase(self) -> None:
        if self._is_live:
            self._put(_ERASE_LINE)

    def _put(self, text: str) -> None:
        if self._is_broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, which is no reason to end the work
            self._is_broken = True

    def _text(self) -> str:
        if self._total and self._done:
            share = f"{self._done:,} of {self._total:,} ({self._done / self._total:.0%})"
            left = self._pace.seconds_left(self._total)
            return f"{self._phase}: {share}" + ("" if left is None else f", ETA {clock_text(left)}")
        since = self._clock() - self._begun
        parts = [f"{self._done:,}"] if self._done else []
        parts += [f"{clock_text(since)} so far"] if since >= 1 else []
        return self._phase + (": " if parts else "") + ", ".join(parts)


@contextmanager
def showing_activity(phase: str = "") -> Iterator[Activity]:
    """Show on standard error what the block does. The block calls the activity to report its progress.

    Args:
        phase: The first phase; empty: show nothing until the block reports a phase.
    """
    activity = Activity(sys.stderr, is_live=_is_watched(sys.stderr))
    if phase:
        activity(phase)
    with ticking(activity.tick):
        try:
            yield activity
        finally:
            activity.end()


@contextmanager
def ticking(tick: Callable[[], None], seconds: float = SECONDS_PER_REFRESH, name: str = "activity") -> Iterator[None]:
    """Call a function every so many seconds, in a thread with this name, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            tick()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_watched(stream: TextIO) -> bool:
    """Return whether a person sees the stream. Under a launcher nobody may: its pseudo-terminals may end in a file."""
    return stream.isatty() and "PMIX_RANK" not in os.environ and os.environ.get("TERM") != "dumb"


def _width_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH  # 0: a terminal of unknown size
    except (OSError, ValueError):
        return _USUAL_WIDTH
