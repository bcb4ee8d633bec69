"""On three ranks, the clocks of two of them set wrongly: all find the same moment."""

from __future__ import annotations

import time

from mpi4py import MPI

from bagpipe_hpc.transport.common_clock import common_origin


def main() -> None:
    world = MPI.COMM_WORLD
    wrong = (0, 10**15, -(10**12))[world.rank]

    def clock() -> int:
        return time.perf_counter_ns() + wrong

    origin, error = common_origin(world, clock, f"clock {world.rank}")
    assert (error > 0) == (world.rank > 0)
    true_origin = world.bcast(origin)  # one kernel, one real clock
    assert abs(origin - wrong - true_origin) <= error, (origin - wrong - true_origin, error)
    assert common_origin(world, time.perf_counter_ns, "one clock")[1] == 0


main()
