"""A rank that finds itself alone stops and names the command that would have worked."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.launcher import check_launcher

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
