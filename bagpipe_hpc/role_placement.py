"""Which rank plays which role, where nodes differ. Pure: knows host names, no MPI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bagpipe_hpc.errors import TopologyError
from bagpipe_hpc.topology import ORACLE_RANK, Topology

PACKED, SPREAD, HOSTS = "packed", "spread", "hosts:"  # hosts:GLOB


@dataclass(frozen=True)
class Seat:
    """Where a rank is.

    Args:
        host: Name of its node.
        has_gpu: Whether a GPU is in sight there.
    """

    host: str
    has_gpu: bool = False


def order_of_roles(seats: Sequence[Seat], topology: Topology, placement: str) -> list[int]:
    """Ranks in the order of roles: who is to be the oracle, then servers 0, 1, ..., then trainers.

    Oracle and servers get ranks one at a time, each from the eligible node that has most left, so that they and the
    trainers are spread evenly; trainers get the rest in their order.

    Args:
        seats: Of every rank.
        placement: "packed": every rank is eligible in its order; "spread": nodes without a GPU, then the others;
            "hosts:GLOB": nodes whose names match.
    Raises:
        TopologyError: too few ranks are on nodes whose names match; names the nodes.
    """
    ranks = list(range(len(seats)))
    if placement == PACKED:
        return ranks
    chosen: list[int] = []
    left = ranks
    for _ in range(1 + topology.num_servers):
        room = Counter(seats[rank].host for rank in left)
        eligible = [rank for rank in left if _is_eligible(seats[rank], placement)]
        if not eligible:
            raise TopologyError(_too_few(seats, topology, placement))
        chosen.append(min(eligible, key=lambda rank: (_has_gpu(seats[rank], placement), -room[seats[rank].host], rank)))
        left = [rank for rank in left if rank != chosen[-1]]
    return chosen + left


def describe_places(hosts: Sequence[str], topology: Topology) -> str:
    """One line: how many of each role are on each node.

    Args:
        hosts: Of every rank, in the order of roles.
    """
    servers = _counts(hosts[rank] for rank in topology.server_ranks)
    trainers = _counts(hosts[rank] for rank in topology.trainer_ranks)
    return f"oracle on {hosts[ORACLE_RANK]}; servers on {servers}; trainers on {trainers}"


def _is_eligible(seat: Seat, placement: str) -> bool:
    return placement == SPREAD or fnmatchcase(seat.host, placement.removeprefix(HOSTS))


def _has_gpu(seat: Seat, placement: str) -> bool:
    return seat.has_gpu and placement == SPREAD


def _too_few(seats: Sequence[Seat], topology: Topology, placement: str) -> str:
    found = sum(_is_eligible(seat, placement) for seat in seats)
    return (
        f"roles.placement is {placement}, but only {found} ranks are on such nodes, 1 oracle + {topology.num_servers} "
        f"embedding servers (roles.servers) need {1 + topology.num_servers}; ranks are on "
        f"{_counts(seat.host for seat in seats)}: start more ranks there, or lower roles.servers"
    )


def _counts(hosts: Iterable[str]) -> str:
    return ", ".join(f"{host} ({count})" for host, count in Counter(hosts).items())
