"""The speed of rows between servers and trainers: every transport, compared with its parts.

Ranks 0..S-1 are servers, the others are trainers. A round times several things, one after the other and each between
two
barriers: a plain copy at the trainers, the servers' access to random rows, the contiguous transfer of the same bytes,
and every transport from end to end, in which servers work up to P iterations ahead of the trainers, as in a job.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time

from mpi4py import MPI

from bagpipe_hpc.bench.rma_figures import CONTIGUOUS, COPY, SERVER, Rates, RmaFigures, Surroundings
from bagpipe_hpc.bench.rma_ranks import BenchServer, BenchTrainer, Work
from bagpipe_hpc.bench.rma_traffic import Direction, RmaTraffic
from bagpipe_hpc.data.dataset import Progress, no_progress


def measure(comm: MPI.Intracomm, traffic: RmaTraffic, progress: Progress = no_progress) -> RmaFigures:
    """Run all rounds. The first round warms up and is not timed.

    Args:
        comm: Communicator of the servers, then the trainers.
        traffic: What moves.
        progress: Called with the current phase.
    Returns:
        The figures, the same on every rank.
    Communication: collective over comm.
    """
    progress("making tables and warming up", 0, 0)
    rank = BenchServer(comm, traffic) if comm.rank < traffic.servers else BenchTrainer(comm, traffic)
    names = (COPY, SERVER, CONTIGUOUS, *traffic.transports)
    num_rows = traffic.num_trainers * traffic.rows * traffic.iterations
    rounds: list[dict[Direction, Rates]] = []
    for number in range(1 + traffic.rounds):
        progress("moving rows, rounds", number, 1 + traffic.rounds)
        rounds.append(
            {
                direction: {name: num_rows / _seconds(comm, rank.works.get((name, direction))) for name in names}
                for direction in Direction
            }
        )
    rank.close()
    return RmaFigures(traffic, _surroundings(comm), rounds[1:])


def _seconds(comm: MPI.Intracomm, work: Work | None) -> float:
    """Return the time of the slowest rank that has work.

    The other ranks wait inside MPI, so that transfers make progress.
    """
    comm.Barrier()
    start = time.perf_counter()
    if work:
        work()
    seconds = time.perf_counter() - start if work else 0.0
    return float(comm.allreduce(seconds, MPI.MAX))


def _surroundings(comm: MPI.Intracomm) -> Surroundings:
    library = MPI.Get_library_version().rstrip("\0").splitlines()[0].split(", package")[0]
    command = f"mpirun -n {comm.size} bagpipe {shlex.join(sys.argv[1:])}"
    return Surroundings(command, library, tuple(comm.allgather(platform.node())))
