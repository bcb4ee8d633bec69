"""The sum of dense gradients over the trainers, as `trainer/dense_gradients.py` needs it."""

from __future__ import annotations

from typing import Protocol

import torch


class DenseSum(Protocol):
    """Adds up buffers of all trainers. A buffer is known by its name; it is summed in place."""

    @property
    def sums_gpu_memory(self) -> bool:
        """Whether `start` takes buffers of a GPU; otherwise they are in host memory."""

    def start(self, name: str, buffer: torch.Tensor) -> None:
        """Begin; returns at once. Communication: collective over the trainers, from here to `finish`."""

    def finish(self, name: str) -> None:
        """Wait until the buffer is the sum. All trainers finish their buffers in the same order."""

    def free(self) -> None:
        """Release what is no longer needed. Communication: collective over the trainers."""


class SumOfOne:
    """What one trainer's gradients sum up to."""

    sums_gpu_memory = True

    def start(self, name: str, buffer: torch.Tensor) -> None:
        """See DenseSum."""

    def finish(self, name: str) -> None:
        """See DenseSum."""

    def free(self) -> None:
        """See DenseSum."""
