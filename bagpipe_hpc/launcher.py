"""Whether launcher and MPI fit together. A launcher of another MPI starts N jobs of one rank each."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.exit_codes import EXIT_INVALID

RANKS_OF_LAUNCHERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# Every MPI launcher sets at least one of these in its processes: Open MPI's, MPICH's and related ones, srun with
# either.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
END_SECONDS = 30.0  # longer than a launcher takes to end the other ranks after one has failed
# What launchers tell the processes that they start, by the beginning of the name of a variable. Settings of MPI for
# users have other names, also PMIX_MCA_ and PRTE_MCA_.
_OF_LAUNCHERS = (
    *("OMPI_COMM_WORLD_", "OMPI_UNIVERSE_SIZE", "OMPI_FIRST_RANKS", "OMPI_APP_CTX_", "OMPI_NUM_APP_CTX", "OMPI_ARGV"),
    *("OMPI_COMMAND", "OMPI_FILE_LOCATION", "OMPI_MCA_ess", "OMPI_MCA_orte_", "OMPI_MCA_pmix", "OMPI_MCA_initial_wdir"),
    *("PMIX_", "PMI_", "PMI2_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "SLURM_", "PALS_", "ALPS_", "FLUX_", "JSM_"),
)
_SETTINGS = ("PMIX_MCA_", "PRTE_MCA_")
# A launcher sets these in the processes that it starts. SLURM_NTASKS would not do: a batch script has it, too.
_LAUNCHED_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def launched_sizes(environment: Mapping[str, str]) -> dict[str, int]:
    """Return how many processes launchers say they have started, by the name of the variable that says it."""
    return {name: int(text) for name in _LAUNCHED_SIZES if (text := environment.get(name, "")).isdigit()}


def is_launched(environment: Mapping[str, str]) -> bool:
    """Return whether an MPI launcher started this process, or srun started several."""
    several = any(size > 1 for size in launched_sizes(environment).values())
    return several or any(name in environment for name in RANK_VARIABLES)


def is_alone(environment: Mapping[str, str]) -> bool:
    """Return whether this process has no launcher, or one that started nothing else."""
    sizes = set(launched_sizes(environment).values())
    return sizes == {1} if sizes else not is_launched(environment)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process that starts MPI for itself alone, although this one was launched."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_SETTINGS) or not name.startswith(_OF_LAUNCHERS)
    }


def launched_rank(environment: Mapping[str, str]) -> int:
    """Return the rank that the launcher gave this process; 0 without a launcher."""
    for name in (*RANK_VARIABLES, "SLURM_PROCID"):
        if (text := environment.get(name, "")).isdigit():
            return int(text)
    return 0


def fault_of_launcher(
    environment: Mapping[str, str], world_size: int, library: str, command: str
) -> tuple[str, str] | None:
    """Compare the number of ranks that launchers announce with the number that MPI sees.

    Args:
        library: MPI's name and version.
        command: The command that was launched, for the cure.
    Returns:
        What is wrong and what to do; None if nothing is wrong.
    """
    for variable in RANKS_OF_LAUNCHERS:
        announced = environment.get(variable, "")
        if world_size == 1 and announced.isdigit() and int(announced) > 1:
            found = f"{variable}={announced}, but MPI sees 1 rank: this launcher and this MPI do not fit together"
            return found, _right_command(variable, int(announced), library, command)
    return None


def check_launcher(environment: Mapping[str, str], world_size: int, library: str, command: str) -> None:
    """Raise if this rank was launched with others, but MPI sees only this one.

    Raises:
        PlatformError: Names the right command.
    """
    if fault := fault_of_launcher(environment, world_size, library, command):
        raise PlatformError("; ".join(fault))


def await_first_rank(environment: Mapping[str, str]) -> None:
    """Return at once on rank 0 of a launch. On the other ranks wait, so that only rank 0 prints why all of them end.

    MPI is not started yet, so the ranks cannot communicate. Launchers end all ranks when the first one has ended with
    an error. If that does not happen, this process ends silently.
    """
    if launched_rank(environment) > 0 and is_launched(environment):
        time.sleep(END_SECONDS)
        sys.exit(EXIT_INVALID)


def keep_mpi_from_starting() -> None:
    """Make later imports of mpi4py not start MPI, unless it is already imported."""
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
