"""The ordered sum of dense gradients over MPI: the same bits with every MPI (`tree_sum.py` has the order).

MPI's own sum of floats is not used, because each MPI adds in an order of its own, which it changes with the size.
Here MPI only carries bytes, by persistent requests of a communicator of its own. No thread is added: whoever calls
`start` or `finish` also moves the other buckets on, and MPI itself makes progress in every thread that calls it.

    trainer t                                        the other trainers
    1 start: send segment j to trainer j,            they may start much later, and in another order of buckets:
             receive t's segment of all              every bucket has tags of its own
    2 once all of 1 is complete: add up segment t
    3 send the sum of segment t to all,
      receive the sums of the other segments
    4 finish: wait until 3 is complete

A buffer that travels whole needs 1 and 2 only, with the whole buffer as every segment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.transport.byte_messages import are_complete, start_all
from bagpipe_hpc.transport.collectives import duplicate, enter_together
from bagpipe_hpc.transport.tree_sum import add_up, segments_of, travels_whole, tree_order

FloatArray = NDArray[np.float32]

_COMPLETE, _COLLECTING, _SPREADING = range(3)


class MpiSum:
    """A DenseSum (see trainer/dense_sum.py) in host memory.

    Args:
        trainers: The trainers, two or more; the sum uses a duplicate of this communicator.
    Communication: construction and `free` are collective over the trainers.
    """

    sums_gpu_memory = False

    def __init__(self, trainers: MPI.Intracomm) -> None:
        self._comm = duplicate(trainers)
        self._buckets: list[MpiSumBucket] = []
        self._under_way: list[MpiSumBucket] = []

    def bucket(self, buffer: Any) -> MpiSumBucket:
        """See DenseSum."""
        made = MpiSumBucket(self._comm, len(self._buckets), buffer.numpy(), self._under_way)
        self._buckets.append(made)
        return made

    def free(self) -> None:
        """See DenseSum."""
        for bucket in self._buckets:
            bucket.free()
        enter_together(self._comm)
        self._comm.Free()


class MpiSumBucket:
    """A SumBucket (see trainer/dense_sum.py). Its requests and receive buffers are made once.

    Args:
        comm: The trainers.
        number: The number of the bucket, the same at all trainers.
        buffer: float32, shape (n,).
        under_way: The buckets of all sums that are under way; this one adds and removes itself.
    """

    def __init__(self, comm: MPI.Intracomm, number: int, buffer: FloatArray, under_way: list[MpiSumBucket]) -> None:
        self._under_way = under_way
        self._additions = tree_order(comm.size)
        self._collecting: list[MPI.Prequest] = []  # 1
        self._spreading: list[MPI.Prequest] = []  # 3
        self._stage = _COMPLETE
        if travels_whole(len(buffer), comm.size):
            segments = [slice(None)] * comm.size
        else:
            segments = segments_of(len(buffer), comm.size)
        mine = self._total = buffer[segments[comm.rank]]
        self._contributions = [mine if rank == comm.rank else np.empty_like(mine) for rank in range(comm.size)]
        for peer in range(comm.size):
            if peer == comm.rank:
                continue
            self._collecting += _both_ways(comm, peer, 2 * number, buffer[segments[peer]], self._contributions[peer])
            if len(mine) < len(buffer):
                self._spreading += _both_ways(comm, peer, 2 * number + 1, mine, buffer[segments[peer]])

    def start(self) -> None:
        """See SumBucket."""
        start_all(self._collecting)
        self._stage = _COLLECTING
        self._move_all_on()
        self._under_way.append(self)

    def finish(self) -> None:
        """See SumBucket."""
        wait_until(self._is_complete)
        self._under_way.remove(self)

    def move_on(self) -> None:
        """Do what is possible now without waiting."""
        if self._stage == _COLLECTING and are_complete(self._collecting):
            add_up(self._contributions, self._additions, self._total)  # 2
            start_all(self._spreading)
            self._stage = _SPREADING
        if self._stage == _SPREADING and are_complete(self._spreading):
            self._stage = _COMPLETE

    def free(self) -> None:
        """Release the requests. None of them is active."""
        for request in (*self._collecting, *self._spreading):
            request.Free()

    def _is_complete(self) -> bool:
        self._move_all_on()
        return self._stage == _COMPLETE

    def _move_all_on(self) -> None:
        for bucket in self._under_way:
            bucket.move_on()


def _both_ways(
    comm: MPI.Intracomm, peer: int, tag: int, outgoing: FloatArray, incoming: FloatArray
) -> list[MPI.Prequest]:
    return [
        comm.Recv_init([incoming, MPI.FLOAT], peer, tag),
        comm.Send_init([outgoing, MPI.FLOAT], peer, tag),
    ]
