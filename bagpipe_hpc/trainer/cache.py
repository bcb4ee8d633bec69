"""The cache of a trainer: the rows that it owns, by slot.

This is the logically replicated, physically partitioned cache of section 3.3 of the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.row_kernels import copy_rows

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]


class RowCache:
    """Rows `[embedding | optimizer state]` by slot. The plans of the oracle name the slots, so no key is looked up.

    Args:
        num_slots: The number of slots. On the CPU, slots that are never used cost no memory.
        row_width: The number of float32 columns of a row.
        device: Where the rows live.
    """

    def __init__(self, num_slots: int, row_width: int, device: torch.device) -> None:
        self.device = device
        self._rows = torch.empty((num_slots, row_width), dtype=torch.float32, device=device)

    @property
    def num_slots(self) -> int:
        """The number of slots."""
        return len(self._rows)

    def read(self, slots: Int32Array) -> torch.Tensor:
        """Return copies of rows.

        Args:
            slots: int32, shape (n,), in host memory.
        Returns:
            float32, shape (n, row_width), on the device.
        """
        return self._rows.index_select(0, self._index(slots))

    def copy_to(self, slots: Int32Array, out: NDArray[Any]) -> None:
        """Copy the first columns of rows to host memory.

        Args:
            slots: int32, shape (n,), in host memory.
            out: Gets the columns, float32, shape (n, at most row_width).
        """
        if self.device.type == "cpu":
            copy_rows(self._rows.numpy(), slots, out)
        else:
            torch.from_numpy(out).copy_(self.read(slots)[:, : out.shape[1]])

    def write(self, slots: Int32Array, rows: torch.Tensor) -> None:
        """Overwrite rows.

        Args:
            slots: int32, shape (n,), in host memory, without repetitions.
            rows: float32, shape (n, row_width), on the device.
        """
        self._rows.index_copy_(0, self._index(slots).long(), rows)

    def _index(self, slots: Int32Array) -> torch.Tensor:
        return torch.from_numpy(slots).to(self.device)


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Return a host array as a tensor of the same dtype and shape on the device. On the CPU both share memory."""
    return torch.from_numpy(array).to(device)


def in_own_memory(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Return a copy of a host array as a tensor of the same dtype and shape on the device, in memory of torch.

    torch aligns its memory, while an array of a plan begins anywhere in the message of the plan. Matrix products of MKL
    may give other bits where their arguments are aligned in another way.
    """
    return torch.tensor(array, device=device)


def to_host(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as a C-contiguous host array of the same dtype and shape.

    A contiguous tensor on the CPU shares its memory with the array.
    """
    array: NDArray[Any] = tensor.detach().contiguous().cpu().numpy()
    return array
