"""A trainer's cache: rows it owns, by slot (paper section 3.3: logically replicated, physically partitioned)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]


class RowCache:
    """Rows `[embedding | optimizer state]` by slot. The oracle says which slot; there is no look-up here.

    Args:
        num_slots: Slots; on the CPU memory of slots never used costs nothing.
        row_width: float32 columns.
        device: Where the rows live.
    """

    def __init__(self, num_slots: int, row_width: int, device: torch.device) -> None:
        self.device = device
        self._rows = torch.empty((num_slots, row_width), dtype=torch.float32, device=device)

    @property
    def num_slots(self) -> int:
        """Slots."""
        return len(self._rows)

    def read(self, slots: Int32Array) -> torch.Tensor:
        """Copies of rows; float32 (len(slots), row_width) on the device."""
        return self._rows.index_select(0, self._index(slots))

    def write(self, slots: Int32Array, rows: torch.Tensor) -> None:
        """Overwrite rows; slots are unique."""
        self._rows.index_copy_(0, self._index(slots).long(), rows)

    def _index(self, slots: Int32Array) -> torch.Tensor:
        return torch.from_numpy(slots).to(self.device)


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """A host array on the device; shares memory on the CPU."""
    return torch.from_numpy(array).to(device)


def to_host(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor as a contiguous host array; shares memory on the CPU where it can."""
    array: NDArray[Any] = tensor.detach().contiguous().cpu().numpy()
    return array
