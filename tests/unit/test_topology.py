"""Ranks and roles."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import TopologyError
from bagpipe_hpc.topology import Role, Topology


def test_roles_of_all_ranks() -> None:
    topology = Topology(world_size=6, num_servers=2)
    assert [topology.role_of(rank) for rank in range(6)] == [Role.ORACLE] + [Role.SERVER] * 2 + [Role.TRAINER] * 3
    assert (list(topology.server_ranks), list(topology.trainer_ranks)) == ([1, 2], [3, 4, 5])
    assert topology.num_trainers == 3


@pytest.mark.parametrize("num_servers", [1, 3])
def test_the_smallest_job_has_one_trainer(num_servers: int) -> None:
    assert Topology(num_servers + 2, num_servers).num_trainers == 1


def test_names_say_role_place_and_rank() -> None:
    topology = Topology(5, 2)
    names = [topology.name_of(rank) for rank in range(5)]
    expected = ["oracle (rank 0)", "server 0 (rank 1)", "server 1 (rank 2)", "trainer 0 (rank 3)", "trainer 1 (rank 4)"]
    assert names == expected


@pytest.mark.parametrize(("world_size", "num_servers", "needed"), [(1, 1, 3), (2, 1, 3), (4, 3, 5)])
def test_too_few_ranks(world_size: int, num_servers: int, needed: int) -> None:
    with pytest.raises(TopologyError, match=rf"has {world_size} rank.*roles\.servers.*`mpirun -n {needed}`"):
        Topology(world_size, num_servers)


@pytest.mark.parametrize("num_servers", [0, -1])
def test_no_server(num_servers: int) -> None:
    with pytest.raises(TopologyError, match=rf"roles\.servers is {num_servers}; at least 1"):
        Topology(9, num_servers)


def test_hints_are_possible() -> None:
    """One server is not too many, and one process alone may play all ranks."""
    with pytest.raises(TopologyError) as caught:
        Topology(1, 1)
    assert "lower roles.servers" not in str(caught.value)
    assert "bagpipe train --local" in str(caught.value)
    with pytest.raises(TopologyError, match=r"or lower roles\.servers") as caught:
        Topology(3, 2)
    assert "--local" not in str(caught.value)
