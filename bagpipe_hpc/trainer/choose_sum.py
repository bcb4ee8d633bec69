"""Which sum of dense gradients the trainers of a job use: Horovod's wherever it can serve them.

Horovod's state belongs to the process. It is made for the trainers of the first job, and cannot be made again for
others: on ranks that would have to start it, the start waits for ever; after a shutdown, it crashes. A later job of the
same processes that has other trainers sums by MPI itself. Both call MPI_Allreduce on equal buffers, so sums are equal
to the bit.
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

_horovod_ranks: Ranks | None = None  # launcher's ranks, by trainer, that Horovod was started with in this process


def choose_sum(trainers: Any, *, is_local: bool = False) -> DenseSum:
    """Return the sum that all trainers use.

    Args:
        trainers: The communicator of the trainers.
        is_local: Whether there is one trainer, and no MPI.
    Communication: collective over the trainers.
    """
    global _horovod_ranks
    if is_local:
        return SumOfOne()
    contents = all_gather_bytes(trainers, json.dumps([launched_ranks().rank, _horovod_ranks]).encode())
    told = [json.loads(content) for content in contents]
    mine: Ranks = tuple(rank for rank, _ in told)
    started = {None if ranks is None else tuple(ranks) for _, ranks in told}
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
        trainers: The launcher's rank of each trainer.
        started: With which trainers each of them has started Horovod; None stands for those that have not.
    """
    return started in ({None}, {trainers})
