"""On three ranks: one fails, the others wait for ever.

mpirun -n 3 python failure.py RANK main|background ERROR
"""

from __future__ import annotations

import sys
import threading

from mpi4py import MPI

from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.runtime.failure import whole_job_fails_together
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.byte_messages import receive_bytes

ERRORS = {"foreign": ValueError("of a kind"), "own": CacheTooSmallError("raise cache.rows"), "exit": SystemExit(0)}


def fail(error: BaseException) -> None:
    raise error


def main() -> None:
    failing, place, error = int(sys.argv[1]), sys.argv[2], ERRORS[sys.argv[3]]
    world = MPI.COMM_WORLD
    name = Topology(world.size, 1).name_of(world.rank)
    with whole_job_fails_together(name):
        world.Barrier()
        if world.rank == failing and place == "main":
            fail(error)
        if world.rank == failing:
            threading.Thread(target=fail, args=[error], daemon=True).start()
        if world.rank == 1:
            world.recv(source=world.rank)  # inside MPI, not polling
        receive_bytes(world, world.rank)


if __name__ == "__main__":
    main()
