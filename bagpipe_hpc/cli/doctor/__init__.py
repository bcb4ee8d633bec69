"""`bagpipe doctor`: look at what a job stands on (MPI, one-sided transfers, Horovod, HDF5, GPUs, the node) and say what
to do about each finding. Runs alone or under `mpirun -n N`; with N ranks every rank looks and rank 0 prints.

A check that raises becomes a failed finding; one that does not end is cut off by its time limit, on every rank by
itself, so that no rank waits for another for ever.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    directory: Annotated[
        Path | None,
        typer.Option(help="Where to try HDF5: best on the file system your data is on.", show_default="temporary"),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for one check.", min=0.1)] = 120.0,
    mpi: Annotated[
        bool, typer.Option("--mpi", help="Check an allocation: roles, GPU binding, clocks, every pair of ranks.")
    ] = False,
    servers: Annotated[int, typer.Option(help="With --mpi: roles.servers of the job to come.", min=1)] = 1,
) -> None:
    """Check MPI, one-sided transfers, Horovod, HDF5, GPUs and the node; say what to do about each finding.

    Run it the way you will run the job: `bagpipe doctor`, `mpirun -n 4 bagpipe doctor`, `srun ... bagpipe doctor`.
    With --mpi, the ranks of the job try each other instead of the software.
    Exit status: 1 if anything failed, else 0.
    """
    from bagpipe_hpc.cli.doctor.command import ALLOCATION_CHECKS, CHECKS, examine

    checks = ALLOCATION_CHECKS if mpi else CHECKS
    if not examine(checks, directory or Path(tempfile.gettempdir()), time_limit, servers):
        raise typer.Exit(1)
