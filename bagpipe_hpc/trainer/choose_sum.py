"""The choice of the sum of dense gradients: Horovod sums them wherever it can serve the trainers of a job.

The state of Horovod belongs to the process. The first job starts Horovod for its trainers, and no later job of the same
processes can start it for other trainers: if some ranks run it already, the start waits forever on the others, and a
start after a shutdown crashes. A later job that has other trainers sums with MPI itself. Both call MPI_Allreduce on
equal buffers, so the sums are equal to the bit.
"""

from __future__ import annotations

import json
from typing import Any

from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.trainer.dense_sum import DenseSum, SumOfOne
from bagpipe_hpc.transport.collectives import all_gather_bytes
from bagpipe_hpc.transport.mpi import launched_ranks
from bagpipe_hpc.transport.mpi_sum import MpiSum

Ranks = tuple[int, ...]

# The trainers that this process has started Horovod with, each by its rank in the launch; None before Horovod starts.
_horovod_ranks: Ranks | None = None


def choose_sum(trainers: Any, *, is_local: bool = False) -> DenseSum:
    """Return the sum that all trainers use.

    Args:
        trainers: The communicator of the trainers.
        is_local: Whether the job runs in one process, with one trainer and without MPI.
    Communication: collective over the trainers.
    """
    global _horovod_ranks
    if is_local:
        return SumOfOne()
    contents = all_gather_bytes(trainers, json.dumps([launched_ranks().rank, _horovod_ranks]).encode())
    answers = [json.loads(content) for content in contents]
    mine: Ranks = tuple(rank for rank, _ in answers)
    started = {None if ranks is None else tuple(ranks) for _, ranks in answers}
    if not fits_horovod(mine, started):
        return MpiSum(trainers)
    from bagpipe_hpc.trainer.horovod_sum import HorovodSum, start_horovod

    if _horovod_ranks is None:
        start_horovod(trainers)
        _horovod_ranks = mine
    return HorovodSum(wait_until)


def fits_horovod(trainers: Ranks, started: set[Ranks | None]) -> bool:
    """Return whether Horovod can sum over these trainers.

    Args:
        trainers: The rank of each trainer in the launch.
        started: The sets of trainers that these ranks have started Horovod with; None for a rank that has not.
    """
    return started in ({None}, {trainers})
