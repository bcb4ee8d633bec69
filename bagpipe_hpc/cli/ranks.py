"""The ranks of a launch, for commands that run alone or under a launcher."""

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

EXIT_SIGTERM = 128 + signal.SIGTERM  # what shells say of a process that it ended


_came: list[signal.Signals] = []  # SIGTERM or SIGINT


class _EndedError(BagpipeError):
    """SIGTERM or SIGINT came."""


@contextmanager
def ranks_of_launch() -> Iterator[Ranks]:
    """All ranks of the job, which then end together if one fails; without a launcher this process, and no MPI.

    SIGTERM and SIGINT are failures like others (see `heeding_signals`), so that what was begun is taken back. Under a
    launcher the rank that gets one says nothing: it is how launchers end all ranks after the one that told why.
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
    """The same, but it raises where SIGTERM or SIGINT has come (see `noting_signals`).

    Raised by the signal itself, an exception would be lost in the callbacks of libraries now and then.
    """

    def heed(phase: str, done: int, total: int) -> None:
        if _came:
            raise _EndedError(f"ended by {_came[0].name}; what was not finished is deleted")
        progress(phase, done, total)

    return heed


@contextmanager
def noting_signals() -> Iterator[None]:
    """SIGTERM and SIGINT (Ctrl-C) are noted, for `heeding_signals`. A second SIGINT interrupts at once."""

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
