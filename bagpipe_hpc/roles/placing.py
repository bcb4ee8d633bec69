"""Ranks take their places: a world in the order of roles."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from mpi4py import MPI

from bagpipe_hpc.role_placement import Seat, describe_places
from bagpipe_hpc.topology import ORACLE_RANK, Topology

_NO_DEVICES = ("", "-1", "NoDevFiles")
_DEVICES = ("/dev/nvidiactl", "/dev/kfd")


def gather_seats(world: MPI.Intracomm) -> list[Seat]:
    """Where every rank is; on rank 0 only. Communication: collective over world."""
    return world.gather(Seat(socket.gethostname(), sees_gpu(os.environ))) or []


def in_order(world: MPI.Intracomm, order: list[int]) -> MPI.Intracomm:
    """The same ranks, of which order[r] becomes rank r. Communication: collective over world."""
    if order == list(range(world.size)):
        return world
    return cast(MPI.Intracomm, world.Split(0, order.index(world.rank)))


def tell_places(world: MPI.Intracomm, topology: Topology) -> None:
    """Print which roles are on which of several hosts. Communication: collective over world."""
    hosts = world.gather(socket.gethostname())
    if world.rank == ORACLE_RANK and len(set(hosts or [])) > 1:
        print(describe_places(hosts or [], topology), flush=True)


def sees_gpu(environment: Mapping[str, str]) -> bool:
    """Whether this rank may use a GPU: what the batch system gave it, else what the node has. Imports no torch."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES"))
    return any(Path(path).exists() for path in _DEVICES) if visible is None else visible not in _NO_DEVICES
