"""What `bagpipe doctor` makes of numbers that this machine does not have."""

from __future__ import annotations

import numpy as np
import pytest

from bagpipe_hpc.cli.doctor.allocation import Share, choose_ranks, judge_binding, judge_clocks, judge_pairs
from bagpipe_hpc.cli.doctor.command import merge
from bagpipe_hpc.cli.doctor.fabric import SLOW_GET_MICROSECONDS, judge_launcher, judge_transfers
from bagpipe_hpc.cli.doctor.finding import Finding, Status, decode, encode
from bagpipe_hpc.cli.doctor.node import GIB, judge_bytes, judge_cores

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


def test_many_ranks_are_stood_for_by_one_of_each_host() -> None:
    assert choose_ranks(["a", "b", "a"]) == [0, 1, 2]
    assert choose_ranks(["a", "b"] * 40) == [0, 1]


def test_pairs_within_and_between_hosts() -> None:
    transfers = np.full((3, 3, 2), (2.0, 10.0))
    transfers[0, 2], transfers[2, 0] = (50.0, 1.0), (70.0, 1.2)
    transfers[1, 2], transfers[2, 1] = (60.0, 1.1), (65.0, 0.9)
    status, found, _ = judge_pairs(transfers, ["a", "a", "b"])
    assert status is Status.OK
    assert found == (
        "2 pairs within a host: median 2.0 µs, 10.00 GB/s; slowest 2.0 µs (a from a), 10.00 GB/s (a from a)\n"
        "4 pairs between hosts: median 62.5 µs, 1.05 GB/s; slowest 70.0 µs (b from a), 0.90 GB/s (b from a)"
    )


@pytest.mark.parametrize("bad", [(2000.0, 1.0), (50.0, 0.2)])
def test_a_pair_that_is_slow_is_named(bad: tuple[float, float]) -> None:
    transfers = np.full((4, 4, 2), (50.0, 1.0))
    transfers[3, 1] = bad
    status, found, cure = judge_pairs(transfers, ["a", "b", "c", "d"])
    assert status is Status.WARN
    assert "(d from b)" in found
    assert "look at the hosts named" in cure


def test_clocks_that_differ() -> None:
    assert judge_clocks(np.array([0.0, 0.5]), 0.001, ["a", "b"])[0] is Status.OK
    status, found, cure = judge_clocks(np.array([0.0, -3.5, 0.1]), 0.001, ["a", "b", "c"])
    assert status is Status.WARN
    assert found == "at most 3.500000 s from rank 0's (b), to within 0.001000 s"
    assert "time of b" in cure


def test_hosts_that_are_alike_share_a_line() -> None:
    shares = [
        Share(host, frozenset({2 * place, 2 * place + 1}), ("gpu0", "gpu1") if host != "c" else ())
        for host in ("g0", "g1", "c")
        for place in range(2)
    ]
    status, found, _ = judge_binding(shares)
    assert status is Status.OK
    assert found == (
        "2 host(s) like g0: 2 rank(s) on 4 cores, their own; 2 GPU(s), 2 in sight of each\n"
        "1 host(s) like c: 2 rank(s) on 4 cores, their own; no GPU"
    )


def test_ranks_that_see_different_numbers_of_gpus() -> None:
    shares = [Share("g", frozenset({0}), ("gpu0",)), Share("g", frozenset({0}), ())]
    status, found, _ = judge_binding(shares)
    assert status is Status.WARN
    assert "2 rank(s) on 1 cores, which they share" in found
    assert "ranks of g see different numbers of GPUs" in found
