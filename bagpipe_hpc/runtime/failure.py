"""Failures: an error on any rank ends the job on all ranks, and a message names the rank, its host and the error.

This module imports nothing but the standard library and mpi4py: it reports that another library is missing, too.
"""

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
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.exit_codes import EXIT_FAILURE, exit_code_of_failure
from bagpipe_hpc.runtime.process_limits import hint_of
from bagpipe_hpc.transport.mpi import abort_all_ranks, launched_ranks

LAUNCHER_READS_SECONDS = 0.3


def abort_job(name: str, error: BaseException, exit_invalid: int = EXIT_FAILURE) -> None:
    """Print an error and end every rank. This does not return.

    Args:
        name: The name of this rank in the message.
        error: The error.
        exit_invalid: The exit code for an error that the user can fix.
    Communication: aborts all ranks.
    """
    history = [] if isinstance(error, BagpipeError) else traceback.format_exception(error)
    message = f"bagpipe: error: {name} on host {socket.gethostname()}: {describe_error(error)}\n"
    sys.stderr.write("".join([*history, message]))  # one write, so that output of the launcher cannot come between
    sys.stdout.flush()
    with suppress(OSError):
        trace.save()  # the last spans of this rank may show the cause
    with suppress(ImportError):  # where a library is missing, nothing has been claimed
        from bagpipe_hpc.runtime.run_lock import release_all

        release_all()
    # A launcher may drop output that it has not forwarded when the abort reaches it. No call reports that it has.
    time.sleep(LAUNCHER_READS_SECONDS)
    with suppress(ImportError):  # nor written
        from bagpipe_hpc.checkpoint.partial import discard_unfinished

        discard_unfinished()  # last, because other ranks that still write to the checkpoint would print errors
    code = exit_code_of_failure(error, exit_invalid)
    abort_all_ranks(code)
    os._exit(code)  # in case abort_all_ranks returns


@contextmanager
def whole_job_fails_together(name: str | None = None, exit_invalid: int = EXIT_FAILURE) -> Iterator[None]:
    """Abort the job in seconds if an exception leaves the block or ends a thread of this rank inside the block.

    Args:
        name: The name of this rank in messages. None: "rank N".
        exit_invalid: The exit code if an error that the user can fix leaves the block.
    Communication: aborts all ranks after an exception, else none.
    """
    name = name or f"rank {launched_ranks().rank}"
    try:
        with threads_fail_by(lambda error: abort_job(name, error)):
            yield
    except BaseException as error:
        abort_job(name, error, exit_invalid)


@contextmanager
def threads_fail_by(report: Callable[[BaseException], object]) -> Iterator[None]:
    """Call report with each exception that ends a thread inside the block. Restore the former hook afterwards."""
    before = threading.excepthook
    threading.excepthook = lambda args: report(args.exc_value or args.exc_type())
    try:
        yield
    finally:
        threading.excepthook = before


def describe_error(error: BaseException) -> str:
    """Return the message of an error, in one line. The type comes first if it is not an error that the user can fix."""
    return str(error) if isinstance(error, BagpipeError) else f"{type(error).__name__}: {error}{hint_of(error)}"
