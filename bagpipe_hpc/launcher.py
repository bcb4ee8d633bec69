"""Whether launcher and MPI work together. A launcher of another MPI starts N jobs of one rank each."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.exit_codes import EXIT_INVALID

RANKS_OF_LAUNCHERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# One of them is set in every process that an MPI launcher starts: Open MPI's, MPICH's and its kin's, srun with either.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
END_SECONDS = 30.0  # from one rank's failure until the launcher has ended the others, and more
# Unlike SLURM_NTASKS, which a batch script has, too, these are set in what a launcher started.
_LAUNCHED_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def launched_sizes(environment: Mapping[str, str]) -> dict[str, int]:
    """How many processes launchers say they have started, by the name of the variable that says it."""
    return {name: int(text) for name in _LAUNCHED_SIZES if (text := environment.get(name, "")).isdigit()}


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether an MPI launcher started this process, or srun started several."""
    several = any(size > 1 for size in launched_sizes(environment).values())
    return several or any(name in environment for name in RANK_VARIABLES)


def launched_rank(environment: Mapping[str, str]) -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    for name in (*RANK_VARIABLES, "SLURM_PROCID"):
        if (text := environment.get(name, "")).isdigit():
            return int(text)
    return 0


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


def await_first_rank(environment: Mapping[str, str]) -> None:
    """At rank 0 of a launch, return at once. At the others, let it say why all of them end, and end silently.

    MPI has not been started, so the ranks cannot tell each other: launchers end all ranks when the first one has ended
    with an error.
    """
    if launched_rank(environment) > 0 and is_launched(environment):
        time.sleep(END_SECONDS)
        sys.exit(EXIT_INVALID)


def keep_mpi_from_starting() -> None:
    """Let mpi4py be imported without starting MPI, if it has not been imported yet."""
    if "mpi4py.MPI" not in sys.modules:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False


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
