"""Which sum of dense gradients the trainers of a job use: Horovod's wherever it can serve them.

Horovod's state is that of the process. It belongs to the trainers of the first job, and cannot be started again for
others: on ranks that would have to start it, the start waits for ever; after a shutdown, it crashes. A later job of the
same processes that has other trainers sums by MPI itself. Both call MPI_Allreduce on equal buffers, so sums are equal
to the bit.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

from bagpipe_hpc.trainer.dense_sum import DenseSum, SumOfOne
from bagpipe_hpc.transport.polling import wait_until

Ranks = tuple[int, ...]

_horovod_ranks: Ranks | None = None  # of MPI_COMM_WORLD, by trainer, that Horovod was started with in this process


def choose_sum(trainers: MPI.Intracomm, *, is_local: bool = False) -> DenseSum:
    """Agree on a sum. Communication: collective over the trainers.

    Args:
        is_local: Whether there is one trainer, and no MPI.
    """
    global _horovod_ranks
    if is_local:
        return SumOfOne()
    mine: Ranks = tuple(trainers.allgather(MPI.COMM_WORLD.rank))
    started = set(trainers.allgather(_horovod_ranks))
    if not fits_horovod(mine, started):
        return MpiSum(trainers)
    from bagpipe_hpc.trainer.horovod_sum import HorovodSum, start_horovod

    if _horovod_ranks is None:
        start_horovod(trainers)
        _horovod_ranks = mine
    return HorovodSum(wait_until)


def fits_horovod(trainers: Ranks, started: set[Ranks | None]) -> bool:
    """Whether Horovod can sum over these trainers.

    Args:
        started: With whom Horovod was started at each of them; None: it was not.
    """
    return started in ({None}, {trainers})


class MpiSum:
    """See DenseSum: summed in host memory, one buffer after the other, when they are waited for.

    Communication: construction and `free` are collective over the trainers.
    """

    sums_gpu_memory = False

    def __init__(self, trainers: MPI.Intracomm) -> None:
        self._comm = trainers.Dup()
        self._waiting: dict[str, Any] = {}

    def start(self, name: str, buffer: Any) -> None:
        """See DenseSum. Buffers become complete in another order at every trainer, so nothing is sent yet."""
        self._waiting[name] = buffer.numpy()

    def finish(self, name: str) -> None:
        """See DenseSum."""
        self._comm.Allreduce(MPI.IN_PLACE, [self._waiting.pop(name), MPI.FLOAT], op=MPI.SUM)

    def free(self) -> None:
        """Release the communicator."""
        self._comm.Free()
