"""The interface of the sum of dense gradients over the trainers, which `trainer/dense_gradients.py` uses."""

from __future__ import annotations

from typing import Protocol

import torch


class DenseSum(Protocol):
    """Sums buffers over the trainers, in place. A buffer has the same name on all trainers."""

    @property
    def sums_gpu_memory(self) -> bool:
        """Whether `start` takes buffers in GPU memory. If not, buffers must be in host memory."""

    def start(self, name: str, buffer: torch.Tensor) -> None:
        """Begin to sum a buffer and return at once.

        Args:
            name: Names the buffer.
            buffer: float32, shape (n,). The caller does not touch it until `finish` returns.
        Communication: collective over the trainers, from here to the return of `finish`.
        """

    def finish(self, name: str) -> None:
        """Wait until the buffer holds the sum. All trainers finish their buffers in the same order.

        Communication: collective over the trainers, complete on return.
        """

    def free(self) -> None:
        """Release communicators. Communication: collective over the trainers."""


class SumOfOne:
    """The sum over one trainer: the buffers already hold it. Communication: none."""

    sums_gpu_memory = True

    def start(self, name: str, buffer: torch.Tensor) -> None:
        """See DenseSum."""

    def finish(self, name: str) -> None:
        """See DenseSum."""

    def free(self) -> None:
        """See DenseSum."""
