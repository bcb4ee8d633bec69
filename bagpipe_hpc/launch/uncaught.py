"""Errors that every rank of a program raises. If nothing catches such an error, one rank prints it, in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from bagpipe_hpc.errors import BagpipeError, JobStopped
from bagpipe_hpc.exit_codes import exit_code_of


class UncaughtErrors:
    """Replaces sys.excepthook for the errors of jobs. The former hook handles all other errors."""

    def __init__(self) -> None:
        self._prints = False
        self._error: BagpipeError | None = None
        self._before = sys.excepthook

    def expect(self, error: BagpipeError, prints: bool) -> None:
        """Expect an error that the caller raises next.

        Args:
            error: The error.
            prints: Whether this rank prints it, if nothing catches it.
        """
        self._error, self._prints = error, prints
        sys.excepthook = self

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print an error that nothing has caught, and end the program. Python calls this."""
        if error is not self._error:
            self._before(kind, error, trace)
            return
        if self._prints and not isinstance(error, JobStopped):  # the oracle has printed that already
            print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)
        # Python ends with this code after MPI_Finalize, so no rank ends before the message is printed.
        raise SystemExit(exit_code_of(self._error))


def raise_on_all_ranks(error: BagpipeError, *, prints: bool) -> NoReturn:
    """Raise an error that every rank raises.

    Args:
        error: The error.
        prints: Whether this rank prints it, if nothing catches it.
    """
    expect_error(error, prints=prints)
    raise error


@contextmanager
def expecting_local_errors(is_local: bool) -> Iterator[None]:
    """Let the program print, in one line, a BagpipeError that leaves the block of a local job and is not caught."""
    try:
        yield
    except BagpipeError as error:
        if is_local:
            expect_error(error, prints=True)
        raise


def expect_error(error: BagpipeError, *, prints: bool) -> None:
    """Expect an error that the caller raises next. The arguments are those of `raise_on_all_ranks`."""
    hook = sys.excepthook
    if not isinstance(hook, UncaughtErrors):
        hook = UncaughtErrors()
    hook.expect(error, prints)
