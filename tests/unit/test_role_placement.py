"""Roles follow the nodes."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import TopologyError
from bagpipe_hpc.role_placement import Seat, describe_places, order_of_roles
from bagpipe_hpc.topology import Topology

# Two nodes without a GPU and two with, ranks dealt out to them one at a time.
MIXED = [Seat(host, host.startswith("gpu")) for _ in range(2) for host in ("gpu0", "cpu0", "gpu1", "cpu1")]


def test_packed_is_the_order_of_ranks() -> None:
    assert order_of_roles(MIXED, Topology(8, 3), "packed") == list(range(8))


def test_oracle_and_servers_go_where_no_gpu_is() -> None:
    assert order_of_roles(MIXED, Topology(8, 3), "spread") == [1, 3, 5, 7, 0, 2, 4, 6]


def test_what_does_not_fit_there_goes_to_the_others() -> None:
    assert order_of_roles(MIXED, Topology(8, 4), "spread") == [1, 3, 5, 7, 0, 2, 4, 6]
    assert order_of_roles(MIXED, Topology(8, 5), "spread")[:6] == [1, 3, 5, 7, 0, 2]


def test_servers_of_equal_nodes_are_spread() -> None:
    seats = [Seat(host) for host in ("n0", "n1", "n2") for _ in range(3)]  # as mpirun fills them
    order = order_of_roles(seats, Topology(9, 2), "spread")
    assert order[:3] == [0, 3, 6]
    assert order[3:] == [1, 2, 4, 5, 7, 8]


def test_the_fullest_node_gives_first() -> None:
    seats = [Seat("n0"), *[Seat("n1")] * 3, Seat("n0")]
    assert order_of_roles(seats, Topology(5, 1), "spread") == [1, 0, 2, 3, 4]


def test_nodes_are_chosen_by_name() -> None:
    assert order_of_roles(MIXED, Topology(8, 1), "hosts:gpu*") == [0, 2, 1, 3, 4, 5, 6, 7]


def test_too_few_ranks_on_chosen_nodes_are_told() -> None:
    with pytest.raises(TopologyError) as error:
        order_of_roles(MIXED, Topology(8, 2), "hosts:cpu1")
    assert str(error.value) == (
        "roles.placement is hosts:cpu1, but only 2 ranks are on such nodes, 1 oracle + 2 embedding servers "
        "(roles.servers) need 3; ranks are on gpu0 (2), cpu0 (2), gpu1 (2), cpu1 (2): start more ranks there, or "
        "lower roles.servers"
    )


def test_places_are_one_line() -> None:
    hosts = ["c0", "c0", "c1", "g0", "g0", "g1"]
    assert describe_places(hosts, Topology(6, 2)) == (
        "oracle on c0; servers on c0 (1), c1 (1); trainers on g0 (2), g1 (1)"
    )
