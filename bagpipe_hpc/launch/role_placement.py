"""The placement of roles: which rank of the launcher plays which role. Pure, except `Place.of_this_rank`.

The oracle and the embedding servers need memory and network, and trainers need GPUs. Launchers number the ranks node by
node and do not know about roles. This module orders the ranks as `topology.py` assigns the roles.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

from bagpipe_hpc.config import RolesConfig
from bagpipe_hpc.errors import TopologyError
from bagpipe_hpc.runtime.process_limits import open_files_limit
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.trainer.device.visible import is_given_gpu


@dataclass(frozen=True)
class Place:
    """The place where a rank runs.

    Args:
        host: The name of the host.
        has_gpu: Whether the rank may use a GPU.
        open_files: How many files the rank may have open.
    """

    host: str
    has_gpu: bool = False
    open_files: int = 2**31

    @classmethod
    def of_this_rank(cls) -> Place:
        """Return where this process runs."""
        return cls(socket.gethostname(), is_given_gpu(os.environ, Path("/dev")), open_files_limit())

    def to_bytes(self) -> bytes:
        """Return the place as JSON."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Place:
        """Return the place that `to_bytes` has written."""
        return cls(**json.loads(content))


def order_of_roles(places: Sequence[Place], roles: RolesConfig) -> list[int]:
    """Return the launcher's ranks in the order of roles: oracle, servers, trainers.

    Args:
        places: The place of each of the launcher's ranks.
        roles: The settings of roles.
    Raises:
        TopologyError: there are too few ranks, or too few on the hosts that the settings want for oracle and servers.
    """
    topology = Topology(len(places), roles.servers)
    if roles.placement == "packed":
        return list(range(len(places)))
    if roles.placement == "spread":
        return _arrange(places, topology, [place.has_gpu for place in places])
    is_spared = [not any(fnmatchcase(place.host, pattern) for pattern in roles.server_hosts) for place in places]
    needed, found = 1 + roles.servers, is_spared.count(False)
    if found < needed:
        fewer = "lower roles.servers, " if roles.servers > 1 else ""
        raise TopologyError(
            f"the hosts of {found} ranks match roles.server_hosts {list(roles.server_hosts)}, but the oracle and "
            f"{roles.servers} embedding server(s) need {needed}; the hosts of the job are "
            f"{_runs(place.host for place in places)}: mend the patterns, {fewer}or start more ranks on those hosts"
        )
    return _arrange(places, topology, is_spared)


def first_of_hosts(places: Sequence[Place], ranks: Iterable[int]) -> list[int]:
    """Return the first of these ranks on each host."""
    first: dict[str, int] = {}
    for rank in ranks:
        first.setdefault(places[rank].host, rank)
    return list(first.values())


def describe(hosts: Sequence[str], topology: Topology) -> str:
    """Return which roles run on which hosts, in words. The hosts are in the order of roles."""
    if len(set(hosts)) == 1:
        return f"all ranks on {hosts[0]}"
    roles = {"oracle": [ORACLE_RANK], "servers": topology.server_ranks, "trainers": topology.trainer_ranks}
    return "; ".join(f"{role} on {_runs(hosts[rank] for rank in ranks)}" for role, ranks in roles.items())


def _arrange(places: Sequence[Place], topology: Topology, is_spared: Sequence[bool]) -> list[int]:
    """Order ranks: oracle and servers first, then trainers.

    Oracle and servers go to ranks that are not spared for trainers, as far as there are enough, one rank per node in
    turn. The other ranks stay in order.
    """
    turns: Counter[str] = Counter()
    candidates = []
    for rank, place in enumerate(places):
        candidates.append((is_spared[rank], turns[place.host], rank))
        turns[place.host] += 1
    chosen = [rank for _, _, rank in sorted(candidates)[: 1 + topology.num_servers]]
    return chosen + sorted(set(range(len(places))) - set(chosen))


def _runs(hosts: Iterable[str]) -> str:
    """Return hosts in words. Neighbours on the same host are counted together."""
    runs = ((host, len(list(run))) for host, run in groupby(hosts))
    return ", ".join(host if length == 1 else f"{host} x {length}" for host, length in runs)
