"""Host memory for rows on their way between ranks and devices. Buffers are allocated once and used many times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray


class HostMemory:
    """The source of the memory of buffers. The memory is page-locked if the device is a GPU.

    `num_allocations` counts the allocations.

    Args:
        device: The device of the trainer, which the rows are copied to.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self.num_allocations = 0

    def allocate(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return new memory, uint8, shape (num_bytes,). Its contents are undefined."""
        self.num_allocations += 1
        array: NDArray[np.uint8] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned).numpy()
        return array


class HostBuffer:
    """One piece of host memory that one thread at a time uses. It grows by doubling and never shrinks.

    Args:
        memory: The source of its memory.
    """

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._bytes = np.empty(0, dtype=np.uint8)

    def rows(self, num_rows: int, columns: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return room for rows, C-contiguous, of the given dtype and of shape (num_rows, columns).

        The contents are undefined. The array is valid until the next call of a method of this buffer.
        """
        dtype = np.dtype(dtype)
        num_bytes = num_rows * columns * dtype.itemsize
        if num_bytes > len(self._bytes):
            self._bytes = self._memory.allocate(1 << (num_bytes - 1).bit_length())
        return self._bytes[:num_bytes].view(dtype).reshape(num_rows, columns)

    def fill(self, tensor: torch.Tensor) -> NDArray[Any]:
        """Return a host copy of rows.

        Args:
            tensor: float32 or int16, shape (n, columns), on any device.
        Returns:
            The same dtype and shape, valid until the next call of a method of this buffer.
        """
        array = self.rows(len(tensor), tensor.shape[1], np.int16 if tensor.dtype == torch.int16 else np.float32)
        torch.from_numpy(array).copy_(tensor)
        return array


class BufferPool:
    """Buffers that several threads share. A thread takes one and may pass it on; the last user gives it back."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._free: list[HostBuffer] = []  # its append and pop are atomic

    def take(self) -> HostBuffer:
        """Return a buffer that no thread uses."""
        try:
            return self._free.pop()
        except IndexError:
            return HostBuffer(self._memory)

    def give_back(self, buffer: HostBuffer) -> None:
        """Give a buffer back. The caller no longer uses it, nor any array that it returned."""
        self._free.append(buffer)
