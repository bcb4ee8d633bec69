"""Exit codes of the `bagpipe` command; batch scripts act on them."""

from __future__ import annotations

from bagpipe_hpc.errors import BagpipeError, DivergedError, JobStopped

EXIT_DONE = 0
EXIT_FAILURE = 1  # the job, or a check, failed
EXIT_INVALID = 2  # arguments, settings or data are wrong: nothing was done
EXIT_DIVERGED = 3  # the loss, the model or a prediction is not finite any more: another start ends the same way
EXIT_STOPPED = 75  # asked to stop, and did so behind a checkpoint: start again with --resume auto (EX_TEMPFAIL)


def exit_code_of(error: BagpipeError | None) -> int:
    """The exit code of a command, or of a job, that ended with this error; None: it ended well."""
    if error is None:
        return EXIT_DONE
    if isinstance(error, JobStopped):
        return EXIT_STOPPED
    return EXIT_DIVERGED if isinstance(error, DivergedError) else EXIT_INVALID
