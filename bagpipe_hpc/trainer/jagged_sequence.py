"""A sequence feature of the samples of a batch, as models get it: one array of rows, and where each sample begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class JaggedSequence:
    """The elements of all samples, sample by sample, the oldest element of a sample first.

    Sample s has the elements from offsets[s] to offsets[s + 1].

    Args:
        embedded: The rows of the n elements, float32, shape (n, row_dim). Backward gives rows their gradients.
        offsets: int64, shape (b + 1,).
        lengths_on_host: The number of elements of each sample, int64, shape (b,), in host memory.
        elements: The values of each element by name, float32 or int64, shape (n,).
    """

    embedded: torch.Tensor
    offsets: torch.Tensor
    lengths_on_host: NDArray[np.int64]
    elements: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def max_length(self) -> int:
        """The largest number of elements of a sample; 0 if there are none."""
        return int(self.lengths_on_host.max(initial=0))

    @property
    def lengths(self) -> torch.Tensor:
        """The number of elements of each sample, int64, shape (b,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def samples(self) -> torch.Tensor:
        """The sample of each element, int64, shape (n,)."""
        numbers = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return torch.repeat_interleave(numbers, self.lengths, output_size=len(self.embedded))

    @property
    def ages(self) -> torch.Tensor:
        """How many elements of the same sample are newer than each element, int64, shape (n,)."""
        places = torch.arange(len(self.embedded), device=self.offsets.device)
        return self.offsets[1:].index_select(0, self.samples) - 1 - places

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the elements as one row per sample, filled up with zeros at the end.

        Args:
            values: Of any dtype, shape (n, ...), such as `embedded`.
        Returns:
            Shape (b, max_length, ...).
        """
        places = torch.arange(len(self.embedded), device=self.offsets.device)
        samples = self.samples
        position = places - self.offsets.index_select(0, samples)
        out = values.new_zeros(len(self.offsets) - 1, self.max_length, *values.shape[1:])
        return out.index_put((samples, position), values)

    @property
    def mask(self) -> torch.Tensor:
        """Which places of `padded` hold elements, bool, shape (b, max_length)."""
        return torch.arange(self.max_length, device=self.offsets.device) < self.lengths[:, None]
