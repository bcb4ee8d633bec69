"""Tracing of a job: every rank writes a file of RUN_DIR/trace/, the oracle merges them into RUN_DIR/trace.json."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.runtime.console import open_console
from bagpipe_hpc.runtime.run_directory import writing_to
from bagpipe_hpc.timeline.merge import merge_traces, rank_file
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.trace import Tracer, install, save

PING_PONGS = 20

Clock = Callable[[], int]


@contextmanager
def tracing(world: MPI.Intracomm, topology: Topology, iterations: range | None, run_path: Path) -> Iterator[None]:
    """Trace this rank inside the block; where that fails, its own file is all there is.

    Args:
        iterations: Which to trace; None: none, and nothing is written.
    Communication: collective over world, before and after the block.
    """
    if iterations is None:
        yield
        return
    origin_ns, clock_error_ns = common_origin(world, time.perf_counter_ns, _clock_name())
    path = rank_file(run_path, world.rank)
    tracer = Tracer(
        path,
        rank=world.rank,
        world_size=world.size,
        role=topology.role_of(world.rank).value,
        name=topology.name_of(world.rank).replace(")", f", {socket.gethostname()})"),
        iterations=iterations,
        origin_ns=origin_ns,
        clock_error_ns=clock_error_ns,
    )
    install(tracer)
    yield
    with writing_to(path):
        save()
    install(None)
    world.Barrier()
    if world.rank == ORACLE_RANK:
        with writing_to(run_path):
            merged = merge_traces(run_path)
        open_console().print(
            f"trace {merged} (https://ui.perfetto.dev, bagpipe report)", highlight=False, soft_wrap=True
        )


def common_origin(world: MPI.Intracomm, clock: Clock, clock_name: str) -> tuple[int, int]:
    """What this rank's clock reads at one moment common to all ranks.

    Ranks that do not share rank 0's clock compare theirs with it by messages to and fro, one rank after the other; in
    the fastest exchange, rank 0 is taken to have answered in the middle.

    Args:
        clock: Nanoseconds.
        clock_name: Equal on ranks that share a clock.
    Returns:
        The reading, and a bound of its error: half the fastest exchange. Clocks that drift apart later are not seen.
    Communication: collective over world.
    """
    names = world.allgather(clock_name)
    origin = int(world.bcast(clock(), root=0))
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
    """How far this clock is ahead of rank 0's, and the bound of the error."""
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


def _clock_name() -> str:
    """Equal on ranks that share CLOCK_MONOTONIC: same boot of the same kernel, same time namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/time")
    except OSError:
        return socket.gethostname()
