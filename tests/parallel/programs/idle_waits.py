"""Rank 0 comes late to every wait of a job's start and end. The others must sleep meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.transport.byte_messages import receive_bytes
from bagpipe_hpc.transport.collectives import all_gather_bytes, broadcast_bytes, duplicate, gather_bytes
from bagpipe_hpc.transport.communicators import ranks_of_host, reordered
from bagpipe_hpc.transport.mpi_ranks import MpiRanks
from bagpipe_hpc.transport.notices import Notices
from bagpipe_hpc.transport.peers import PeerExchange
from bagpipe_hpc.transport.window import RowWindow

LATE_SECONDS = 0.5
MOST_CPU_SECONDS = LATE_SECONDS / 4  # a wait that spins takes all of LATE_SECONDS


def waits(comm: MPI.Intracomm) -> dict[str, Callable[[], object]]:
    window = RowWindow(comm, 0, 4)
    peers = PeerExchange(comm)
    ranks = MpiRanks(comm)
    return {
        "gather": lambda: gather_bytes(comm, b"content"),
        "all-gather": lambda: all_gather_bytes(comm, b"content"),
        "broadcast": lambda: broadcast_bytes(comm, b"content" if comm.rank == 0 else None),
        "message": lambda: comm.Send([b"content", MPI.BYTE], 1) if comm.rank == 0 else _receive(comm),
        "duplicate": lambda: duplicate(comm),
        "reordered": lambda: reordered(comm, [1, 0]),
        "ranks of a host": lambda: ranks_of_host(comm),
        "notices": lambda: Notices(comm, 1),
        "a window's start": lambda: RowWindow(comm, 0, 4),
        "a window's end": window.free,
        "the end of an exchange": peers.free,
        "import": lambda: ranks.allgather(np.arange(3)),
        "import, all to all": lambda: ranks.alltoall([np.arange(3)] * comm.size),
    }


def _receive(comm: MPI.Intracomm) -> object:
    return receive_bytes(comm, 0)


def main() -> None:
    comm = MPI.COMM_WORLD
    for name, wait in waits(comm).items():
        comm.Barrier()
        start = time.process_time()
        if comm.rank == 0:
            time.sleep(LATE_SECONDS)
        wait()
        seconds = time.process_time() - start
        assert seconds < MOST_CPU_SECONDS, f"rank {comm.rank} computed for {seconds:.2f} s while it waited: {name}"
    if comm.rank == 0:
        print("all ranks slept")


if __name__ == "__main__":
    main()
