"""On three ranks: MPI's communicators pass the checks that the in-memory twin passes."""

from __future__ import annotations

from mpi4py import MPI

from tests.communicator import CHECKS

if __name__ == "__main__":
    for check in CHECKS:
        check(MPI.COMM_WORLD)
    if MPI.COMM_WORLD.rank == 0:
        print(len(CHECKS), "checks passed")
