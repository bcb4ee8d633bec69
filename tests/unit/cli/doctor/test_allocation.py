"""What `bagpipe doctor --mpi` makes of allocations that this machine does not have."""

from __future__ import annotations

import pytest

from bagpipe_hpc.cli.doctor.allocation import (
    MOST_RANKS,
    SKEW_SECONDS,
    Binding,
    Pair,
    choose_ranks,
    judge_binding,
    judge_clocks,
    judge_pairs,
    judge_roles,
)
from bagpipe_hpc.cli.doctor.fabric import SLOW_GET_MICROSECONDS
from bagpipe_hpc.cli.doctor.finding import Status
from bagpipe_hpc.topology import Topology

HOSTS = ["cpu0", "cpu0", "cpu1", "gpu0", "gpu0", "gpu1"]
TOPOLOGY = Topology(6, 2)
PAIRS = [Pair(origin, target, 2.0, 10.0, 8.0) for origin in range(6) for target in range(6) if origin != target]


def trainer(name: str, host: str, gpu: str, *visible: str) -> Binding:
    return Binding(name, host, gpu, visible)


def test_roles_are_counted_by_host() -> None:
    found = judge_roles(TOPOLOGY, HOSTS)[1]
    assert found.splitlines() == ["1 oracle: cpu0 (1)", "2 server: cpu0 (1), cpu1 (1)", "3 trainer: gpu0 (2), gpu1 (1)"]
    assert judge_roles(Topology(12, 1), [f"n{i}" for i in range(12)])[1].endswith("n4 (1), n5 (1) and 6 more")


@pytest.mark.parametrize(
    ("bindings", "status", "words"),
    [
        ([trainer("a", "x", ""), trainer("b", "x", "")], Status.OK, "2 trainer(s), all on the CPU"),
        ([trainer("a", "x", "G0", "G0", "G1"), trainer("b", "x", "G1", "G0", "G1")], Status.OK, "on 2 GPU(s)"),
        ([trainer("a", "x", "G0", "G0"), trainer("b", "x", "G0", "G0")], Status.WARN, "a on x and b on x share GPU G0"),
        ([trainer("a", "x", "G0", "G0"), trainer("b", "y", "")], Status.WARN, "b on y on the CPU"),
        ([trainer("a", "x", "G0", "G0", "G1")], Status.WARN, "1 GPU(s) without a trainer"),
    ],
)
def test_gpus_of_trainers(bindings: list[Binding], status: Status, words: str) -> None:
    judged, found, cure = judge_binding(bindings)
    assert (judged, bool(cure)) == (status, status is not Status.OK)
    assert words in found


def test_clocks_of_hosts() -> None:
    assert judge_clocks({"a": (0.0, 0.0)})[0] is Status.OK
    assert judge_clocks({"a": (0.0, 0.0), "b": (SKEW_SECONDS / 2, 0.001)})[0] is Status.OK
    status, found, cure = judge_clocks({"a": (0.0, 0.0), "b": (-2 * SKEW_SECONDS, 0.001), "c": (0.1, 0.001)})
    assert (status, bool(cure)) == (Status.WARN, True)
    assert "b differs most from rank 0: -1000.000 ms (within 1.000 ms)" in found


def test_of_many_ranks_one_of_each_role_and_host_is_tried() -> None:
    assert choose_ranks(TOPOLOGY, HOSTS) == list(range(6))
    size = 4 * MOST_RANKS
    hosts = [f"node{rank * 4 // size}" for rank in range(size)]
    chosen = choose_ranks(Topology(size, size // 2), hosts)
    assert [hosts[rank] for rank in chosen] == ["node0", "node0", "node1", "node2", "node2", "node3"]


def test_pairs_are_summed_up_by_role() -> None:
    status, found, cure = judge_pairs(PAIRS, 30, TOPOLOGY, HOSTS)
    assert (status, cure) == (Status.OK, "")
    assert found.splitlines()[0] == "30 of 30 pairs tried, all ranks at once"
    assert "trainer -> server: 2.0 µs, Get 10.00 (lowest 10.00), Put 8.00 GB/s" in found.splitlines()
    assert len(found.splitlines()) == 1 + 3 * 3 - 1  # there is one oracle


@pytest.mark.parametrize(
    ("pair", "status", "words"),
    [
        (
            Pair(3, 1, problem="RuntimeError: no"),
            Status.FAIL,
            "trainer 0 (rank 3) on gpu0 -> server 0 (rank 1) on cpu0: ",
        ),
        (Pair(3, 1, 2.0, 1.0, 8.0), Status.WARN, "slow: trainer 0 (rank 3) on gpu0 -> server 0 (rank 1) on cpu0: "),
        (Pair(3, 1, 2 * SLOW_GET_MICROSECONDS, 9.0, 8.0), Status.WARN, "slow: trainer 0 (rank 3) on gpu0"),
    ],
)
def test_a_bad_pair_is_named(pair: Pair, status: Status, words: str) -> None:
    pairs = [pair if (pair.origin, pair.target) == (other.origin, other.target) else other for other in PAIRS]
    judged, found, cure = judge_pairs(pairs, 30, TOPOLOGY, HOSTS)
    assert (judged, bool(cure)) == (status, True)
    assert words in found
