"""Signals that come while a job starts. They are kept until the job can react to them.

A launcher may pass on the signal of a batch system while its ranks still start. If the signal ended a rank then, the
job script would take that for a failure.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# The first of these stops a job after a checkpoint.
GRACEFUL = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# `nohup` and background jobs of a shell ignore these signals. Then they stay ignored.
MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
REPEAT_SECONDS = 1.0  # launchers send one signal several times; signals within this time count as one

_kept: list[tuple[signal.Signals, float]] = []


def keep_signals() -> None:
    """Keep the first signal from here on. A later signal ends the process. Call it in the main thread."""
    for signum in GRACEFUL:
        if signum not in MAY_BE_IGNORED or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _keep)


def take_kept_signals() -> list[signal.Signals]:
    """Return the signals kept so far, and forget them."""
    kept = [signum for signum, _ in _kept]
    _kept.clear()
    return kept


def _keep(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    if _kept and now - _kept[0][1] >= REPEAT_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif not _kept:
        _kept.append((signal.Signals(number), now))
