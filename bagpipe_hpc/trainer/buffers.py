"""Memory for rows on their way between ranks, host and device. Buffers are allocated once and used many times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bagpipe_hpc.trainer.device.base import Device, Mark, Memory, Mirror
from bagpipe_hpc.trainer.device.exposed_memory import ExposedMemory


class RowBuffer:
    """One piece of memory on host and device that one thread at a time uses. It grows by doubling and never shrinks.

    Args:
        device: The device of the trainer.
        for_peers: Whether other trainers read or write the rows.
    """

    def __init__(self, device: Device, *, for_peers: bool = False) -> None:
        self._device, self._for_peers = device, for_peers
        self._memory: Memory | None = None
        self._num_bytes = 0

    def rows(self, num_rows: int, columns: int, dtype: DTypeLike = np.float32) -> Mirror:
        """Return room for rows, C-contiguous, of the given dtype and of shape (num_rows, columns).

        The contents are undefined. The rows are valid until the next call.
        """
        dtype = np.dtype(dtype)
        num_bytes = num_rows * columns * dtype.itemsize
        if self._memory is None or num_bytes > self._num_bytes:
            self._num_bytes = 1 << (max(num_bytes, 1) - 1).bit_length()
            self._memory = self._device.allocate(self._num_bytes, for_peers=self._for_peers)
        self._memory.await_host()  # the device may still read earlier rows, or be copying them up
        return _rows_in(self._device, self._memory, num_bytes, dtype, (num_rows, columns))


def fixed_rows(device: Device, num_rows: int, columns: int) -> Mirror:
    """Return float32 rows of their own, of shape (num_rows, columns), that last as long as the device."""
    num_bytes = 4 * num_rows * columns
    return _rows_in(device, device.allocate(num_bytes), num_bytes, np.dtype(np.float32), (num_rows, columns))


def _rows_in(device: Device, memory: Memory, num_bytes: int, dtype: np.dtype[Any], shape: tuple[int, int]) -> Mirror:
    if isinstance(memory, ExposedMemory):
        exposed = memory.view(0, dtype, shape)
        return Mirror(memory, exposed, exposed)
    host = memory.host[:num_bytes].view(dtype).reshape(shape)
    return Mirror(None, host, host) if device.shares_memory else Mirror(memory, host, memory.view(0, dtype, shape))


class BufferPool:
    """Buffers that several threads share. A thread takes one and may pass it on; the last user gives it back.

    Args:
        device: The device of the trainer.
        for_peers: Whether other trainers read or write the rows in the buffers.
    """

    def __init__(self, device: Device, *, for_peers: bool = False) -> None:
        self._device, self._for_peers = device, for_peers
        self._free: list[tuple[RowBuffer, Mark]] = []  # its append and pop are atomic

    def take(self) -> RowBuffer:
        """Return a buffer that no thread uses. Later work of the stream of the calling thread may use it."""
        try:
            buffer, mark = self._free.pop()
        except IndexError:
            return RowBuffer(self._device, for_peers=self._for_peers)
        self._device.wait(mark)
        return buffer

    def give_back(self, buffer: RowBuffer, mark: Mark) -> None:
        """Give a buffer back. The caller no longer uses it, nor any rows that it returned.

        Args:
            buffer: The buffer.
            mark: No work behind it uses the buffer.
        """
        self._free.append((buffer, mark))
