"""`bagpipe doctor`: check what a job needs (MPI, one-sided transfers, Horovod, HDF5, GPUs, the node) and say what to do
about each finding. It runs alone or under `mpirun -n N`. With N ranks, every rank checks and rank 0 prints.

A check that raises becomes a failed finding. A check that does not end within its time limit ends its process. Each
rank keeps its own time limits, so no rank waits for another one for ever.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bagpipe_hpc.cli.printed_json import AsJson


def doctor(
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the HDF5 check: best one on the file system of your data.", show_default="temporary"
        ),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Time limit of each check, in seconds.", min=0.1)] = 120.0,
    mpi: Annotated[
        bool,
        typer.Option("--mpi", help="Check an allocation instead: roles, GPU binding, clocks, every pair of ranks."),
    ] = False,
    servers: Annotated[int, typer.Option(help="With --mpi: roles.servers of the planned job.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Check MPI, one-sided transfers, Horovod, HDF5, GPUs and the node; say what to do about each finding.

    Run it in the same way as the job: `bagpipe doctor`, `mpirun -n 4 bagpipe doctor`, `srun ... bagpipe doctor`.
    With --mpi, the ranks check each other instead of the software.
    The exit status is 1 if a check failed, else 0.
    """
    from bagpipe_hpc.cli.doctor.command import ALLOCATION_CHECKS, CHECKS, examine

    checks = ALLOCATION_CHECKS if mpi else CHECKS
    if not examine(checks, directory or Path(tempfile.gettempdir()), time_limit, servers, as_json=as_json):
        raise typer.Exit(1)
