"""The cache of a trainer: the rows that it owns, by slot.

This is the logically replicated, physically partitioned cache of section 3.3 of the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.device.base import Device, DeviceArray, SampleRows, UpdateLists
from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
from bagpipe_hpc.trainer.wire import FLOAT32, Wire

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]


class RowCache:
    """Rows `[embedding | optimizer state]` by slot. The plans of the oracle name the slots, so no key is looked up.

    `insert`, `copy`, `copy_to` and `gather` give work to the stream of the calling thread. `read` and `update` are such
    work.

    Args:
        num_slots: The number of slots. On the CPU, slots that are never used cost no memory.
        row_width: The number of float32 columns of a row.
        device: Where the rows live.
    """

    def __init__(self, num_slots: int, row_width: int, device: Device) -> None:
        self.device = device
        self._tensor = device.empty_rows(num_slots, row_width)
        self._rows = device.as_array(self._tensor)
        self._kernels = device.kernels

    @property
    def rows(self) -> torch.Tensor:
        """All rows, float32, shape (num_slots, row_width). Work on them is work of the stream of the calling thread."""
        return self._tensor

    @property
    def row_width(self) -> int:
        """The number of columns of a row."""
        return self._tensor.shape[1]

    @property
    def num_slots(self) -> int:
        """The number of slots."""
        return len(self._tensor)

    def insert(self, slots: DeviceArray, rows: DeviceArray) -> None:
        """Overwrite rows.

        Args:
            slots: int32, shape (n,), without repetitions.
            rows: float32, shape (n, row_width).
        """
        if len(slots):
            self.device.launch(self._kernels.write_rows, self._rows, slots, rows)

    def copy(self, slots: DeviceArray, out: DeviceArray, wire: Wire = FLOAT32) -> None:
        """Copy the first columns of rows.

        Args:
            slots: int32, shape (n,).
            out: Gets the columns in the format of the wire, float32 or int16, shape (n, at most row_width).
            wire: The format.
        """
        if len(slots):
            self.device.launch(self._kernels.copy_rows, self._rows, slots, out, wire)

    def gather(self, own_slots: DeviceArray, packed: DeviceArray, wire: Wire) -> SampleRows:
        """Return the rows of samples, ready for `RowKernels.leaf` and `pool`; SampleRows describes the arguments."""
        rows = SampleRows(self._rows, own_slots, packed, wire)
        if len(own_slots):
            self.device.launch(self._kernels.gather, rows)
        return rows

    def copy_to(self, slots: DeviceArray, out: DeviceArray, places: DeviceArray) -> None:
        """Copy rows to places.

        Args:
            slots: int32, shape (n,).
            out: Gets the rows, float32, shape (at least n, row_width).
            places: The row of `out` that gets each of them, int64, shape (n,).
        """
        if len(slots):
            self.device.launch(self._kernels.copy_rows_to, self._rows, slots, out, places)

    def read(self, slots: DeviceArray, columns: int) -> torch.Tensor:
        """Return copies of the first columns of rows, as an operation of torch.

        Args:
            slots: int32, shape (n,).
            columns: The number of columns.
        Returns:
            float32, shape (n, columns).
        """
        return self._tensor.index_select(0, self.device.as_tensor(slots))[:, :columns]

    def update(
        self,
        lists: UpdateLists,
        own_gradients: DeviceArray,
        arrived: DeviceArray,
        optimizer: RowOptimizer,
        num_trained: int,
        *,
        in_tree: bool,
        wire: Wire = FLOAT32,
        scale: float = 1.0,
    ) -> None:
        """Update rows by the sums of their gradients. RowKernels.update describes the arguments."""
        self._kernels.update(
            self._rows, lists, own_gradients, arrived, optimizer, num_trained, in_tree=in_tree, wire=wire,
            scale=scale,
        )  # fmt: skip

    def keep(self, slots: Int32Array) -> Float32Array:
        """Return copies of rows in host memory, in the order of the slots. The host waits for the device.

        Args:
            slots: int32, shape (n,), in host memory.
        Returns:
            float32, shape (n, row_width).
        """
        rows: NDArray[Any] = self.device.get(self.read(self.device.put(slots), self.row_width))
        return rows

    def restore(self, slots: Int32Array, rows: Float32Array) -> None:
        """Overwrite rows with rows in host memory.

        Args:
            slots: int32, shape (n,), without repetitions.
            rows: float32, shape (n, row_width).
        """
        self.insert(self.device.put(slots), self.device.put(rows))
