"""The interface of the sum of dense gradients over the trainers, which `trainer/dense_gradients.py` uses.

Three backends have it: Horovod (`horovod_sum.py`), MPI (`transport/mpi_sum.py`) and a process group of torch
(`process_group_sum.py`). `tests/dense_sum.py` is the contract that all of them keep.
"""

from __future__ import annotations

from typing import Protocol

import torch


class SumBucket(Protocol):
    """One buffer that is summed over the trainers, in place, again and again."""

    def start(self) -> None:
        """Begin to sum the buffer and return at once. The caller does not touch it until `finish` returns.

        Trainers may start their buckets in different orders.
        Communication: collective over the trainers, from here to the return of `finish`.
        """

    def finish(self) -> None:
        """Wait until the buffer holds the sum. All trainers finish their buckets in the order in which they were made.

        Communication: collective over the trainers, complete on return.
        """


class DenseSum(Protocol):
    """Sums buffers over the trainers."""

    @property
    def sums_gpu_memory(self) -> bool:
        """Whether buffers may be in GPU memory. If not, they must be in host memory."""

    def bucket(self, buffer: torch.Tensor) -> SumBucket:
        """Return a bucket for a buffer. All trainers make buckets of the same sizes in the same order.

        Args:
            buffer: float32, shape (n,). It is the buffer of the bucket until `free`.
        Communication: none.
        """

    def free(self) -> None:
        """Release communicators. No bucket is under way. Communication: collective over the trainers."""


class SumOfOne:
    """The sum over one trainer, and its own bucket: the buffers already hold the sum. Communication: none."""

    sums_gpu_memory = True

    def bucket(self, buffer: torch.Tensor) -> SumOfOne:
        """See DenseSum."""
        return self

    def start(self) -> None:
        """See SumBucket."""

    def finish(self) -> None:
        """See SumBucket."""

    def free(self) -> None:
        """See DenseSum."""
