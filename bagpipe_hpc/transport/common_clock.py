"""One moment in time on the clocks of all ranks, for traces."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.transport.collectives import all_gather_bytes, broadcast_bytes

PING_PONGS = 20

Clock = Callable[[], int]


def common_origin(world: MPI.Intracomm, clock: Clock, clock_name: str) -> tuple[int, int]:
    """Return what the clock of this rank reads at one moment that is common to all ranks.

    A rank that does not share the clock of rank 0 exchanges messages with rank 0, one such rank after the other. Of its
    fastest exchange, the rank assumes that rank 0 answered in the middle.

    Args:
        clock: Returns nanoseconds.
        clock_name: Equal on ranks that share a clock.
    Returns:
        The reading, and a bound of its error: half the fastest exchange. Clocks that drift apart later are not seen.
    Communication: collective over world.
    """
    names = all_gather_bytes(world, clock_name.encode())
    origin = int(broadcast_bytes(world, str(clock()).encode() if world.rank == 0 else None))
    offset = error = 0
    for rank in (rank for rank in range(1, world.size) if names[rank] != names[0]):
        if world.rank == 0:
            _answer(world, rank, clock)
        elif world.rank == rank:
            offset, error = _compare(world, clock)
    return origin + offset, error


def _answer(world: MPI.Intracomm, rank: int, clock: Clock) -> None:
    reading = np.empty(1, dtype=np.int64)
    for _ in range(PING_PONGS):
        world.Recv(reading, rank)
        reading[0] = clock()
        world.Send(reading, rank)


def _compare(world: MPI.Intracomm, clock: Clock) -> tuple[int, int]:
    """Return how many nanoseconds this clock is ahead of that of rank 0, and a bound of the error."""
    reading = np.zeros(1, dtype=np.int64)
    exchanges = []
    for _ in range(PING_PONGS):
        sent = clock()
        world.Send(reading, 0)
        world.Recv(reading, 0)
        received = clock()
        exchanges.append((received - sent, (sent + received) // 2 - int(reading[0])))
    round_trip, offset = min(exchanges)
    return offset, round_trip // 2


def clock_name() -> str:
    """Return a name that is equal on ranks that share CLOCK_MONOTONIC: of one boot and one time namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/time")
    except OSError:
        return socket.gethostname()
