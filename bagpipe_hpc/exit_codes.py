"""Exit codes of the `bagpipe` command. Job scripts act on them."""

from __future__ import annotations

from bagpipe_hpc.errors import (
    BagpipeError,
    CacheTooSmallError,
    DivergedError,
    FencedError,
    JobStopped,
    RunDirectoryError,
)

EXIT_DONE = 0
EXIT_FAILURE = 1  # the job or a check has failed
EXIT_INVALID = 2  # arguments, settings or data are wrong; another start would end in the same way
EXIT_DIVERGED = 3  # the loss, the model or a prediction is no longer finite; another start would end in the same way
EXIT_STOPPED = 75  # the job has stopped after a checkpoint, as asked: start it again with --resume auto (EX_TEMPFAIL)


def exit_code_of(error: BagpipeError | None) -> int:
    """Return the exit code of a command or job that ended with this error; None: without error."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, JobStopped):
        return EXIT_STOPPED
    return EXIT_DIVERGED if isinstance(error, DivergedError) else EXIT_INVALID


def exit_code_of_failure(error: BaseException, exit_invalid: int = EXIT_FAILURE) -> int:
    """Return the exit code of a job that one rank ends with this error, without the consent of the others.

    Args:
        error: The error.
        exit_invalid: The exit code for other errors that the user can fix. If it is EXIT_FAILURE, a job script starts
            the job again, because a file or another rank may be to blame.
    """
    if isinstance(error, CacheTooSmallError | FencedError | RunDirectoryError):
        return EXIT_INVALID
    return exit_invalid if isinstance(error, BagpipeError) else EXIT_FAILURE
