"""Errors that every rank of a program raises: where nothing catches them, one rank says so, in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from bagpipe_hpc.errors import BagpipeError, JobStopped
from bagpipe_hpc.exit_codes import exit_code_of


class UncaughtErrors:
    """Takes the place of sys.excepthook for the errors of jobs; all others go to the hook that was there before."""

    def __init__(self) -> None:
        self._prints = False
        self._error: BagpipeError | None = None
        self._before = sys.excepthook

    def expect(self, error: BagpipeError, prints: bool) -> None:
        """This error is about to be raised on all ranks; one of them prints."""
        self._error, self._prints = error, prints
        sys.excepthook = self

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Python's last words about an error that nothing has caught."""
        if error is not self._error:
            self._before(kind, error, trace)
            return
        if self._prints and not isinstance(error, JobStopped):  # which the oracle has said
            print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)
        # Python ends with this code, after MPI_Finalize: no rank is gone before the message is out.
        raise SystemExit(exit_code_of(self._error))


def raise_on_all_ranks(error: BagpipeError, *, prints: bool) -> NoReturn:
    """Raise an error that every rank raises.

    Args:
        prints: Whether this rank prints it, if nothing catches it.
    """
    expect_error(error, prints=prints)
    raise error


@contextmanager
def expecting_local_errors(is_local: bool) -> Iterator[None]:
    """If a BagpipeError leaves the block of a local job and nothing catches it, the program prints it in one line."""
    try:
        yield
    except BagpipeError as error:
        if is_local:
            expect_error(error, prints=True)
        raise


def expect_error(error: BagpipeError, *, prints: bool) -> None:
    """The caller raises this error next; arguments as those of `raise_on_all_ranks`."""
    hook = sys.excepthook
    if not isinstance(hook, UncaughtErrors):
        hook = UncaughtErrors()
    hook.expect(error, prints)
