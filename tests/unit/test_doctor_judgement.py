"""What `bagpipe doctor` makes of numbers that this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.cli.doctor.command import merge
from bagpipe_hpc.cli.doctor.fabric import SLOW_GET_MICROSECONDS, judge_launcher, judge_transfers
from bagpipe_hpc.cli.doctor.finding import Finding, Status, decode, encode
from bagpipe_hpc.cli.doctor.node import GIB, judge_bytes, judge_cores, judge_open_files
from bagpipe_hpc.cli.doctor.software import judge_code_cache
from bagpipe_hpc.compiled import CodeCache

OPEN_MPI_5 = "Open MPI v5.0.11, package: x"


def test_singletons_of_a_foreign_launcher() -> None:
    status, _, cure = judge_launcher({"SLURM_NTASKS": "8"}, 1, OPEN_MPI_5)
    assert status is Status.FAIL
    assert "PMIX_MCA_psec=native srun --mpi=pmix -n 8 bagpipe doctor" in cure


@pytest.mark.parametrize(("ntasks", "world_size"), [("1", 1), ("4", 4), ("", 1)])
def test_a_launcher_that_fits(ntasks: str, world_size: int) -> None:
    assert judge_launcher({"SLURM_NTASKS": ntasks}, world_size, OPEN_MPI_5)[0] is Status.OK


@pytest.mark.parametrize(
    ("numbers", "cure"),
    [((4, 4, 16, 16), ""), ((2, 3, 2, 2), "oversubscribed"), ((1, 2, 2, 16), "PE=8"), ((1, 1, 1, 16), "")],
)
def test_cores(numbers: tuple[int, int, int, int], cure: str) -> None:
    status, _, advice = judge_cores(*numbers)
    assert cure in advice
    assert (status is Status.OK) == (cure == "")


def test_memory_per_rank() -> None:
    assert judge_bytes("free", 4 * GIB, 4, "cure")[0] is Status.OK
    assert judge_bytes("free", 4 * GIB, 5, "cure")[::2] == (Status.WARN, "cure")


def test_many_peers_are_summed_up_and_the_slowest_named() -> None:
    transfers = dict.fromkeys(range(1, 100), (1.0, 10.0)) | {42: (2 * SLOW_GET_MICROSECONDS, 0.1)}
    status, found, cure = judge_transfers(transfers, [f"node{rank}" for rank in range(100)])
    assert (status, bool(cure)) == (Status.WARN, True)
    assert found.splitlines() == [
        "Get from 99 ranks, median: 1.0 µs, 8 MiB at 10.00 GB/s",
        "slowest: Get from rank 42 (node42): 2000.0 µs, 8 MiB at 0.10 GB/s",
    ]


def test_the_worst_rank_speaks_for_a_check() -> None:
    fine = Finding("GPUs", Status.OK, "4 visible")
    bad = Finding("GPUs", Status.FAIL, "none", "ask")
    (merged,) = merge([[fine], [bad], [fine], [bad]])
    assert merged == Finding("GPUs", Status.FAIL, "none\n(on 2 of 4 ranks: 1, 3)", "ask")
    assert merge([[fine], [fine]]) == [fine]


def test_findings_survive_the_message() -> None:
    findings = [Finding("RMA", Status.WARN, "0.5 µs", "cure")]
    assert decode(encode(findings)) == findings


@pytest.mark.parametrize(
    ("cache", "named", "found"),
    [
        (CodeCache(Path("/p/__pycache__"), "the package"), None, ""),
        (CodeCache(Path("/n"), "NUMBA_CACHE_DIR"), "/n", ""),
        (CodeCache(Path("/p/__pycache__"), "the package"), "/n", "NUMBA_CACHE_DIR=/n is not writable"),
        (CodeCache(None, ""), None, "not kept"),
    ],
)
def test_where_machine_code_is_kept(cache: CodeCache, named: str | None, found: str) -> None:
    status, told, cure = judge_code_cache(cache, named)
    assert found in told
    assert (status is Status.OK) == (not found) == (not cure)


@pytest.mark.parametrize(
    ("limit", "num_ranks", "status"),
    [(16, 4, Status.FAIL), (1024, 4, Status.OK), (100, 4, Status.WARN), (1024, 1000, Status.FAIL)],
)
def test_open_files(limit: int, num_ranks: int, status: Status) -> None:
    found, text, cure = judge_open_files(limit, num_ranks)
    assert found is status
    assert f"{limit:,} files" in text
    assert ("ulimit -n 4096" in cure) == (status is not Status.OK)
