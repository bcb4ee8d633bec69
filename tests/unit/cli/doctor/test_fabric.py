"""What `bagpipe doctor` makes of launchers and transfers that this machine does not have."""

from __future__ import annotations

import pytest

from bagpipe_hpc.cli.doctor.fabric import SLOW_GET_MICROSECONDS, judge_launcher, judge_transfers
from bagpipe_hpc.cli.doctor.finding import Status

OPEN_MPI_5 = "Open MPI v5.0.11, package: x"


def test_singletons_of_a_foreign_launcher() -> None:
    status, _, cure = judge_launcher({"SLURM_NTASKS": "8"}, 1, OPEN_MPI_5)
    assert status is Status.FAIL
    assert "PMIX_MCA_psec=native srun --mpi=pmix -n 8 bagpipe doctor" in cure


@pytest.mark.parametrize(("ntasks", "world_size"), [("1", 1), ("4", 4), ("", 1)])
def test_a_launcher_that_fits(ntasks: str, world_size: int) -> None:
    assert judge_launcher({"SLURM_NTASKS": ntasks}, world_size, OPEN_MPI_5)[0] is Status.OK


def test_many_peers_are_summed_up_and_the_slowest_named() -> None:
    transfers = dict.fromkeys(range(1, 100), (1.0, 10.0)) | {42: (2 * SLOW_GET_MICROSECONDS, 0.1)}
    status, found, cure = judge_transfers(transfers, [f"node{rank}" for rank in range(100)])
    assert (status, bool(cure)) == (Status.WARN, True)
    assert found.splitlines() == [
        "Get from 99 ranks, median: 1.0 µs, 8 MiB at 10.00 GB/s",
        "slowest: Get from rank 42 (node42): 2000.0 µs, 8 MiB at 0.10 GB/s",
    ]
