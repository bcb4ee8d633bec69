"""The ranks of a launch, for commands that run with or without a launcher."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bagpipe_hpc.data.dataset import Progress
from bagpipe_hpc.data.importing.ranks import Alone, Ranks
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.exit_codes import EXIT_INVALID
from bagpipe_hpc.launcher import RANK_VARIABLES

EXIT_SIGTERM = 128 + signal.SIGTERM  # the code that shells report for a process that SIGTERM ended


_came: list[signal.Signals] = []  # the SIGTERM and SIGINT that this process received


class _EndedError(BagpipeError):
    """This process received SIGTERM or SIGINT."""


@contextmanager
def ranks_of_launch() -> Iterator[Ranks]:
    """Give all ranks of the job. If one fails, all end together. Without a launcher: this process alone, without MPI.

    SIGTERM and SIGINT count as failures (see `heeding_signals`), so the command removes what it has begun. Under a
    launcher, a rank that receives one prints nothing: launchers send it to all ranks after one rank has failed and has
    printed the reason.
    """
    with noting_signals():
        if not any(name in os.environ for name in RANK_VARIABLES):
            yield Alone()
            return
        from bagpipe_hpc.runtime.failure import whole_job_fails_together
        from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI
        from bagpipe_hpc.transport.mpi_ranks import MpiRanks

        with whole_job_fails_together(exit_invalid=EXIT_INVALID):
            try:
                yield MpiRanks(launched_ranks())
            except _EndedError:
                os._exit(EXIT_SIGTERM)


def heeding_signals(progress: Progress) -> Progress:
    """Return a progress callback that raises if SIGTERM or SIGINT has come, and otherwise calls the given one.

    The signal handler itself does not raise, because callbacks of libraries sometimes swallow exceptions.
    """

    def heed(phase: str, done: int, total: int) -> None:
        if _came:
            raise _EndedError(f"ended by {_came[0].name}; unfinished output is deleted")
        progress(phase, done, total)

    return heed


@contextmanager
def noting_signals() -> Iterator[None]:
    """Note SIGTERM and SIGINT (Ctrl-C) for `heeding_signals`. A second SIGINT interrupts at once."""

    def note(signum: int, frame: FrameType | None) -> None:
        _came.append(signal.Signals(signum))
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    _came.clear()
    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
