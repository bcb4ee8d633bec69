"""Device memory that other trainers read and write themselves, through an MPI that knows the memory of GPUs.

MPI does not know streams. So the host waits: before peers read, for the work that writes; before they write, for the
work that reads. `base.py` has the whole order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.device.base import ARRIVED, Arrival, Device, DeviceArray, Mirror
from bagpipe_hpc.trainer.row_kernels import copy_rows

TORCH_DTYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
}


class ExposedMemory:
    """A Memory of the device alone.

    Args:
        device: The device.
        array: The memory, uint8, shape (num_bytes,).
    """

    def __init__(self, device: Device, array: torch.Tensor) -> None:
        self._device, self._array = device, array
        self.host: NDArray[np.uint8] = np.empty(0, np.uint8)
        # torch may give memory out again while earlier work of this stream still uses it.
        self._unused: Arrival = device.arrival()

    def view(self, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> DeviceArray:
        """See Memory."""
        num_bytes = math.prod(shape) * dtype.itemsize
        return self._array[begin : begin + num_bytes].view(TORCH_DTYPES[dtype]).view(shape)

    def up(self, begin: int, end: int) -> None:
        """See Memory. The bytes are there."""

    def down(self, begin: int, end: int) -> Arrival:
        """See Memory. Peers may read the bytes when the work so far is over."""
        return self._device.arrival()

    def await_host(self) -> None:
        """See Memory."""
        self._unused.wait()
        self._unused = ARRIVED

    def release(self) -> None:
        """See Memory."""
        self._unused = self._device.arrival()


def pick(device: Device, rows: Mirror, positions: DeviceArray, out: Mirror) -> Arrival:
    """Pick rows on a device that has memory of its own; see Device."""
    if not device.exposes_memory:
        copy_rows(rows.exposed, positions, out.exposed)
        return ARRIVED
    if len(positions):
        device.launch(_copy_rows, rows.device, positions, out.device)
    return out.down()


def _copy_rows(rows: torch.Tensor, positions: torch.Tensor, out: torch.Tensor) -> None:
    torch.index_select(rows, 0, positions, out=out)
