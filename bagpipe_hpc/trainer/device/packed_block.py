"""A block for devices with memory of their own: all that an iteration needs goes up in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.trainer.device.base import Device, DeviceArray, HostArray, Mark, Memory

ALIGNMENT = 256  # bytes; kernels may read several elements at once


class PackedBlock:
    """A Block.

    Fetched rows land in it, so they are not copied on the host. The arrays of the plan are copied behind them, by the
    thread that fetches.

    Args:
        device: Has the memory.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: Memory | None = None
        self._num_bytes = 0  # of the memory
        self._places: list[tuple[int, HostArray]] = []  # first byte of each array
        self._end = 0
        self._released: Mark | None = None

    def pack(self, num_rows: int, row_width: int, arrays: Sequence[HostArray]) -> NDArray[np.float32]:
        """See Block."""
        self._places, self._end = [], 0
        row_bytes = 4 * num_rows * row_width
        begins = [0]
        self._end = _aligned(row_bytes)
        for array in arrays:
            begins.append(self._end)
            self._end = _aligned(self._end + array.nbytes)
        memory = self._room(self._end)
        memory.await_host()  # the iteration before it in this block may still be on its way up
        rows: NDArray[np.float32] = memory.host[:row_bytes].view(np.float32).reshape(num_rows, row_width)
        for begin, array in zip(begins[1:], arrays, strict=True):
            memory.host[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
        self._places = list(zip(begins, [rows, *arrays], strict=True))
        return rows

    def place(self) -> list[DeviceArray]:
        """See Block."""
        memory = self._memory
        assert memory is not None
        if self._released is not None:
            self._device.wait(self._released)  # the iteration before it in this block is over
        memory.up(0, self._end)
        return [memory.view(begin, array.dtype, array.shape) for begin, array in self._places]

    def release(self, mark: Mark) -> None:
        """See Block."""
        self._released = mark

    def _room(self, num_bytes: int) -> Memory:
        if self._memory is None or num_bytes > self._num_bytes:
            self._num_bytes = 1 << (max(num_bytes, ALIGNMENT) - 1).bit_length()
            self._memory = self._device.allocate(self._num_bytes)
        return self._memory


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
