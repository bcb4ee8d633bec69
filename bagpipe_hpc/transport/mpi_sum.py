"""The sum of dense gradients by MPI itself."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI


class MpiSum:
    """A DenseSum (see trainer/dense_sum.py): buffers are summed in host memory, one after the other.

    Communication: construction and `free` are collective over the trainers.
    """

    sums_gpu_memory = False

    def __init__(self, trainers: MPI.Intracomm) -> None:
        self._comm = trainers.Dup()
        self._waiting: dict[str, Any] = {}

    def start(self, name: str, buffer: Any) -> None:
        """See DenseSum. Nothing is sent yet, because buffers become complete in another order at every trainer."""
        self._waiting[name] = buffer.numpy()

    def finish(self, name: str) -> None:
        """See DenseSum."""
        self._comm.Allreduce(MPI.IN_PLACE, [self._waiting.pop(name), MPI.FLOAT], op=MPI.SUM)

    def free(self) -> None:
        """Release the communicator."""
        self._comm.Free()
