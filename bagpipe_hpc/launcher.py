"""Whether launcher and MPI work together. A launcher of another MPI starts N jobs of one rank each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from bagpipe_hpc.errors import PlatformError

RANKS_OF_LAUNCHERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def misfit_of_launcher(
    environment: Mapping[str, str], world_size: int, library: str, command: str
) -> tuple[str, str] | None:
    """Compare the number of ranks that launchers announce with the number that MPI sees.

    Args:
        library: What MPI says it is.
        command: What was launched, for the cure.
    Returns:
        What is wrong, and what to do; None if nothing is.
    """
    for variable in RANKS_OF_LAUNCHERS:
        announced = environment.get(variable, "")
        if world_size == 1 and announced.isdigit() and int(announced) > 1:
            found = f"{variable}={announced}, but MPI sees 1 rank: this launcher and this MPI do not work together"
            return found, _right_command(variable, int(announced), library, command)
    return None


def check_launcher(environment: Mapping[str, str], world_size: int, library: str, command: str) -> None:
    """Stop a rank that finds itself alone.

    Raises:
        PlatformError: names the right command.
    """
    if misfit := misfit_of_launcher(environment, world_size, library, command):
        raise PlatformError("; ".join(misfit))


def _right_command(variable: str, num_ranks: int, library: str, command: str) -> str:
    mpirun = f"{_mpirun()} -n {num_ranks} {command}"
    if variable != "SLURM_NTASKS":
        return f"use the launcher of the same MPI: {mpirun}"
    if "Open MPI" not in library:
        return f"use srun --mpi=pmi2 -n {num_ranks} {command}, or inside the allocation {mpirun}"
    setting = "PMIX_MCA_psec=native " if "v5." in library else ""
    return f"use {setting}srun --mpi=pmix -n {num_ranks} {command}, or inside the allocation {mpirun}"


def _mpirun() -> str:
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else "mpirun"
