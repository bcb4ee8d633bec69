"""Rank 0 sends rank 1 messages of several sizes, then both send each other one; rank 0 prints the times as JSON.

There is a pause before each message. The ranks wait as those of a job do: they sleep between polls. Of one direction it
prints the shortest time of each size, which the link alone decides. Of both directions it prints the mean, because Open
MPI moves large messages now at the same time, now one after the other.
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.transport.byte_messages import wait_all

SIZES = (64, 500_000, 2_000_000)
BOTH_SIZES = (300_000, 1_000_000)
REPEATS = 7
PAUSE_SECONDS = 0.06


def timed(comm: MPI.Intracomm, size: int, senders: tuple[int, ...]) -> float:
    """Return the time until rank 0 has sent and received; the receiver of one direction answers with a byte."""
    other, answer = 1 - comm.rank, np.zeros(1, np.uint8)
    sent, received = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    comm.Barrier()
    time.sleep(PAUSE_SECONDS)
    comm.Barrier()
    start = time.perf_counter()
    requests = [comm.Irecv(received, other)] if other in senders else []
    requests += [comm.Isend(sent, other)] if comm.rank in senders else []
    wait_all(requests)
    if len(senders) == 1:
        _answer(comm, answer, is_first=comm.rank in senders)
    return time.perf_counter() - start


def _answer(comm: MPI.Intracomm, answer: NDArray[np.uint8], *, is_first: bool) -> None:
    wait_all([comm.Irecv(answer, 1, 1)] if is_first else [comm.Isend(answer, 0, 1)])


def main() -> None:
    comm = MPI.COMM_WORLD
    one_way = {size: min(timed(comm, size, (0,)) for _ in range(REPEATS)) for size in SIZES}
    both_ways = {size: statistics.mean(timed(comm, size, (0, 1)) for _ in range(REPEATS)) for size in BOTH_SIZES}
    if comm.rank == 0:
        print(json.dumps({"one_way": one_way, "both_ways": both_ways}))


if __name__ == "__main__":
    main()
