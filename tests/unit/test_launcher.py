"""A rank that finds itself alone stops and names the command that would have worked."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.launcher import check_launcher, is_alone, is_launched, launched_rank, without_launcher

OPEN_MPI_5 = "Open MPI v5.0.11, package: x"


@pytest.mark.parametrize(
    ("environment", "library", "cure"),
    [
        ({"SLURM_NTASKS": "8"}, OPEN_MPI_5, "use PMIX_MCA_psec=native srun --mpi=pmix -n 8 bagpipe train x"),
        ({"SLURM_NTASKS": "8"}, "Open MPI v4.1.4, package: x", "use srun --mpi=pmix -n 8 bagpipe train x"),
        ({"SLURM_NTASKS": "8"}, "MPICH Version: 5.0.2", "use srun --mpi=pmi2 -n 8 bagpipe train x"),
        ({"PMI_SIZE": "2"}, OPEN_MPI_5, "mpirun -n 2 bagpipe train x"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "MPICH Version: 5.0.2", "mpirun -n 2 bagpipe train x"),
    ],
)
def test_a_lonely_rank(environment: dict[str, str], library: str, cure: str) -> None:
    with pytest.raises(PlatformError, match="but MPI sees 1 rank") as caught:
        check_launcher(environment, 1, library, "bagpipe train x")
    assert cure in str(caught.value)


@pytest.mark.parametrize(("ntasks", "world_size"), [("1", 1), ("4", 4), ("", 1)])
def test_a_launcher_that_fits(ntasks: str, world_size: int) -> None:
    check_launcher({"SLURM_NTASKS": ntasks}, world_size, OPEN_MPI_5, "bagpipe train x")


@pytest.mark.parametrize(
    ("environment", "launched", "alone", "rank"),
    [
        ({}, False, True, 0),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False, True, 0),  # a batch script, before any srun
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, True, True, 0),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, True, False, 3),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, True, False, 1),
        ({"PMIX_RANK": "2"}, True, False, 2),  # of how many it does not say
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, True, False, 3),  # srun without any MPI
    ],
)
def test_whether_there_is_a_launcher(environment: dict[str, str], launched: bool, alone: bool, rank: int) -> None:
    assert (is_launched(environment), is_alone(environment), launched_rank(environment)) == (launched, alone, rank)


def test_a_child_process_hears_nothing_of_a_launcher() -> None:
    of_user = {
        "PATH": "/bin",
        "OMPI_MCA_pml": "ob1",
        "PMIX_MCA_gds": "hash",
        "UCX_TLS": "all",
        "MPICH_GPU_SUPPORT": "1",
    }
    of_launcher = ["OMPI_COMM_WORLD_RANK", "OMPI_MCA_ess", "PMIX_RANK", "PMIX_SERVER_URI4", "PMI_FD", "SLURM_PROCID"]
    assert without_launcher({**of_user, **dict.fromkeys(of_launcher, "1")}) == of_user
    assert is_alone(without_launcher({**of_user, **dict.fromkeys(of_launcher, "2")}))
