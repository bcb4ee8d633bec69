"""Signals that come before a job can act on them are kept, and given to it when it can.

A launcher may pass on the signal of a batch system while its ranks still start. Without this, the signal would end a
rank, and the job script would take that for a failure.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# The first one stops a job behind a checkpoint.
GRACEFUL = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# Ignored by `nohup`, or in the background of a shell: then they stay ignored.
MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
REPEAT_SECONDS = 1.0  # launchers send one signal several times; within this time it counts once

_kept: list[tuple[signal.Signals, float]] = []


def keep_signals() -> None:
    """Keep the first signal from here on; a later one ends the process. Must be called in the main thread."""
    for signum in GRACEFUL:
        if signum not in MAY_BE_IGNORED or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _keep)


def take_kept_signals() -> list[signal.Signals]:
    """The signals kept so far, which are forgotten here."""
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
