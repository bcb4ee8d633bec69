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
    mpi: Annotated[
        bool, typer.Option("--mpi", help="Look at the whole allocation: every pair of ranks, clocks, cores, GPUs.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds for one check.", min=0.1)] = 120.0,
) -> None:
    """Check MPI, one-sided transfers, Horovod, HDF5, GPUs and the node; say what to do about each finding.

    Run it the way you will run the job: `bagpipe doctor`, `mpirun -n 4 bagpipe doctor`, `srun ... bagpipe doctor`.
    Exit status: 1 if anything failed, else 0.
    """
    from bagpipe_hpc.cli.doctor.command import CHECKS, CHECKS_OF_ALLOCATION, examine

    checks = (*CHECKS, *CHECKS_OF_ALLOCATION) if mpi else CHECKS
    if not examine(checks, directory or Path(tempfile.gettempdir()), time_limit):
        raise typer.Exit(1)
