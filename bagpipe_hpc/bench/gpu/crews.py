"""How `bagpipe bench gpu` starts its workers: one process alone, and an MPI launch for each number of trainers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bagpipe_hpc.bench.gpu.case import NUM_SERVERS

WORKER = (sys.executable, "-m", "bagpipe_hpc.bench.gpu.worker")
ALONE = 0  # the number of trainers that stands for the process alone
NO_LAUNCHER = "no mpirun beside this Python or on the PATH, so there are no jobs with several trainers"


def find_mpirun() -> str | None:
    """Return the path of the launcher of this Python's MPI; None: there is none."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")


def version_of(mpirun: str) -> str:
    """Return what a launcher says of its version."""
    done = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def crew_command(
    trainers: int, mpirun: str | None, version: Callable[[str], str] = version_of
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the words of the command that starts a worker, and variables for its environment.

    Args:
        trainers: The number of trainers of its jobs. ALONE: the process alone.
        mpirun: The path of the launcher. None: there is none, and the process is alone.
        version: Returns what the launcher says of its version.
    """
    worker = (*WORKER, str(trainers))
    if trainers == ALONE:
        return worker, {}
    assert mpirun is not None
    launch: tuple[str, ...] = (mpirun, "-n", str(1 + NUM_SERVERS + trainers))
    said = version(mpirun).lower()
    if "open mpi" not in said and "openrte" not in said and "open-mpi" not in said:
        return launch + worker, {"MPIR_CVAR_POLLS_BEFORE_YIELD": "10", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
    variables = {"OMPI_MCA_osc": "^ucx,pt2pt", "OMPI_MCA_btl": "^ofi"}
    if os.geteuid() == 0:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return (*launch, "--oversubscribe", *worker), variables


def environment_of_crew(variables: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a worker. What the user has set stays."""
    return {**variables, **environment, "PYTHONUNBUFFERED": "1"}
