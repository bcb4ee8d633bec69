"""Run a training job for a command, on all ranks or in this process alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from bagpipe_hpc.launcher import keep_mpi_from_starting

if TYPE_CHECKING:
    from bagpipe_hpc.launch.request import Request


def run_job(make_request: Callable[[], Request], *, is_local: bool) -> None:
    """Play this rank's part of the job and end with its exit code.

    Args:
            make_request: Returns the request of the job; imports MPI.
            is_local: Whether this process plays all ranks.
    """
    if is_local:
        keep_mpi_from_starting()
        code = _run(make_request)
    else:
        # This import starts MPI: if this rank fails after this line, it must end the others, too.
        from bagpipe_hpc.runtime.failure import whole_job_fails_together

        with whole_job_fails_together():
            code = _run(make_request)
    if code:
        raise typer.Exit(code)


def _run(make_request: Callable[[], Request]) -> int:
    from bagpipe_hpc.launch.job import run_training

    return run_training(make_request())


def job_request(*args: Any, **more: Any) -> Request:
    """Return a request with these arguments; see `Request` in launch/request.py."""
    from bagpipe_hpc.launch.request import Request

    return Request(*args, **more)
