"""Ranks 0 and 1 exchange messages of several sizes, each after a pause; rank 0 prints the shortest times as JSON.

They wait as the ranks of a job do: they sleep between polls.
"""

from __future__ import annotations

import json
import time

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.polling import wait_until

SIZES = (64, 500_000, 3_000_000)
REPEATS = 9
PAUSE_SECONDS = 0.06


def main() -> None:
    comm = MPI.COMM_WORLD
    other = 1 - comm.rank
    found = {}
    for size in SIZES:
        sent, received = np.zeros((2, size), np.uint8)
        times = []
        for _ in range(REPEATS):
            comm.Barrier()
            time.sleep(PAUSE_SECONDS)
            comm.Barrier()
            start = time.perf_counter()
            requests = [comm.Irecv(received, other), comm.Isend(sent, other)]
            wait_until(lambda: all(request.Test() for request in requests))
            times.append(time.perf_counter() - start)
        found[size] = min(times)
    if comm.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
