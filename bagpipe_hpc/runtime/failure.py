"""A failure anywhere ends the job everywhere, and says who, where and why."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bagpipe_hpc import trace
from bagpipe_hpc.checkpoint.partial import discard_unfinished
from bagpipe_hpc.errors import BagpipeError, FencedError, RunDirectoryError
from bagpipe_hpc.exit_codes import EXIT_FAILURE, EXIT_INVALID
from bagpipe_hpc.runtime.process_limits import hint_of
from bagpipe_hpc.runtime.run_lock import release_all
from bagpipe_hpc.transport.mpi import abort_all_ranks, launched_ranks

LAUNCHER_READS_SECONDS = 0.3


def abort_job(name: str, error: BaseException, exit_invalid: int = EXIT_FAILURE) -> None:
    """Print what happened and end every rank, with exit_invalid if it is the user's to mend. Does not return."""
    history = [] if isinstance(error, BagpipeError) else traceback.format_exception(error)
    complaint = f"bagpipe: error: {name} on host {socket.gethostname()}: {describe_error(error)}\n"
    sys.stderr.write("".join([*history, complaint]))  # one write: the launcher's own words cannot come between
    sys.stdout.flush()
    with suppress(OSError):
        trace.save()  # the last thing this rank did may tell why
    release_all()
    # Launchers may forget output that they have not forwarded when the abort reaches them, and nothing tells when.
    time.sleep(LAUNCHER_READS_SECONDS)
    discard_unfinished()  # last: other ranks that still write to it would complain
    code = exit_invalid if isinstance(error, BagpipeError) else EXIT_FAILURE
    if isinstance(error, FencedError | RunDirectoryError):
        code = EXIT_INVALID  # a job script must not start this job again beside the one that took over
    abort_all_ranks(code)
    os._exit(code)  # in case that returns


@contextmanager
def whole_job_fails_together(name: str | None = None, exit_invalid: int = EXIT_FAILURE) -> Iterator[None]:
    """Any exception inside the block, in any thread of this rank, aborts the job in seconds.

    Args:
        name: What messages call this rank; by default "rank N".
    """
    name = name or f"rank {launched_ranks().rank}"
    try:
        with threads_fail_by(lambda error: abort_job(name, error)):
            yield
    except BaseException as error:
        abort_job(name, error, exit_invalid)


@contextmanager
def threads_fail_by(report: Callable[[BaseException], object]) -> Iterator[None]:
    """Inside the block, exceptions that end a thread are reported; afterwards as they were before."""
    before = threading.excepthook
    threading.excepthook = lambda args: report(args.exc_value or args.exc_type())
    try:
        yield
    finally:
        threading.excepthook = before


def describe_error(error: BaseException) -> str:
    """What happened, in one line; of errors that are not the user's with their type."""
    return str(error) if isinstance(error, BagpipeError) else f"{type(error).__name__}: {error}{hint_of(error)}"
