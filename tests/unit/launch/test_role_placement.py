"""Roles follow the nodes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.config import RolesConfig
from bagpipe_hpc.errors import TopologyError
from bagpipe_hpc.launch.role_placement import Place, describe, first_of_hosts, order_of_roles
from bagpipe_hpc.topology import Topology

GPU_NODES = [Place(host, has_gpu=True) for host in ("gpu0", "gpu0", "gpu1", "gpu1")]
CPU_NODES = [Place(host) for host in ("cpu0", "cpu0", "cpu1", "cpu1")]


def roles(placement: str, servers: int = 2, hosts: Sequence[str] = ()) -> RolesConfig:
    return RolesConfig.model_validate({"servers": servers, "placement": placement, "server_hosts": hosts})


def test_packed_is_the_launchers_order() -> None:
    assert order_of_roles(GPU_NODES + CPU_NODES, roles("packed")) == list(range(8))


def test_oracle_and_servers_leave_the_gpus_to_trainers() -> None:
    # oracle on cpu0, servers on cpu1 and cpu0 again; the rank of cpu1 that is left trains, after those before it
    assert order_of_roles(GPU_NODES + CPU_NODES, roles("spread")) == [4, 6, 5, 0, 1, 2, 3, 7]


def test_gpu_nodes_help_out_where_the_others_are_too_few() -> None:
    assert order_of_roles(GPU_NODES + CPU_NODES[:1], roles("spread")) == [4, 0, 2, 1, 3]


def test_without_gpus_servers_have_nodes_of_their_own() -> None:
    places = [Place(f"node{rank // 2}") for rank in range(8)]
    assert order_of_roles(places, roles("spread", servers=3)) == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize("patterns", [["gpu1", "cpu[0-3]"], ["*1", "cpu0"]])
def test_hosts_by_name(patterns: list[str]) -> None:
    chosen = order_of_roles(GPU_NODES + CPU_NODES, roles("by-hostname", servers=4, hosts=patterns))
    assert chosen == [2, 4, 6, 3, 5, 0, 1, 7]


def test_too_few_ranks_on_those_hosts() -> None:
    with pytest.raises(TopologyError) as error:
        order_of_roles(GPU_NODES, roles("by-hostname", hosts=["gpu1", "node*"]))
    said = str(error.value)
    for words in ("hosts of 2 ranks", "['gpu1', 'node*']", "need 3", "gpu0 x 2, gpu1 x 2", "mend the patterns"):
        assert words in said


def test_too_few_ranks_for_all_roles() -> None:
    with pytest.raises(TopologyError, match="at least 1 trainer need 4"):
        order_of_roles(GPU_NODES[:3], roles("spread"))


@given(
    places=st.lists(st.builds(Place, st.sampled_from("abc"), st.booleans()), min_size=3, max_size=12),
    placement=st.sampled_from(["packed", "spread"]),
    data=st.data(),
)
def test_every_rank_has_one_role(places: list[Place], placement: str, data: st.DataObject) -> None:
    servers = data.draw(st.integers(1, len(places) - 2))
    order = order_of_roles(places, roles(placement, servers))
    assert sorted(order) == list(range(len(places)))
    trainers = order[1 + servers :]
    assert trainers == sorted(trainers)
    if placement == "spread":  # a GPU serves only where no other rank is left
        assert all(places[rank].has_gpu for rank in trainers) or not any(
            places[r].has_gpu for r in order[: 1 + servers]
        )


def test_one_host_in_a_word_and_several_by_role() -> None:
    assert describe(["a"] * 4, Topology(4, 1)) == "all ranks on a"
    said = describe(["c0", "c1", "c1", "g0", "g0", "g1"], Topology(6, 2))
    assert said == "oracle on c0; servers on c1 x 2; trainers on g0 x 2, g1"


def test_the_first_rank_of_each_host() -> None:
    places = [Place(host) for host in "aabbca"]
    assert first_of_hosts(places, [5, 1, 3, 2, 4]) == [5, 3, 4]
    assert first_of_hosts(places, []) == []
