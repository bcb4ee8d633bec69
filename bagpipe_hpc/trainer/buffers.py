"""Host memory that rows travel from and to: allocated once, used again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray


class HostMemory:
    """Where buffers get their memory: page-locked, where rows go on to a GPU. Counts how often."""

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self.num_allocations = 0

    def allocate(self, num_bytes: int) -> NDArray[np.uint8]:
        self.num_allocations += 1
        array: NDArray[np.uint8] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned).numpy()
        return array


class HostBuffer:
    """One piece of host memory, in one thread's hands at a time. Grows by doubling, never shrinks."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._bytes = np.empty(0, dtype=np.uint8)

    def rows(self, num_rows: int, columns: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Room for rows, C-contiguous, contents undefined; valid until the next call."""
        dtype = np.dtype(dtype)
        num_bytes = num_rows * columns * dtype.itemsize
        if num_bytes > len(self._bytes):
            self._bytes = self._memory.allocate(1 << (num_bytes - 1).bit_length())
        return self._bytes[:num_bytes].view(dtype).reshape(num_rows, columns)

    def fill(self, tensor: torch.Tensor) -> NDArray[Any]:
        """A host copy of float32 or int16 rows on any device; valid as above."""
        array = self.rows(len(tensor), tensor.shape[1], np.int16 if tensor.dtype == torch.int16 else np.float32)
        torch.from_numpy(array).copy_(tensor)
        return array


class BufferPool:
    """Buffers that are handed from thread to thread: who is done with one gives it back."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._free: list[HostBuffer] = []  # its append and pop are atomic

    def take(self) -> HostBuffer:
        """One that nobody holds."""
        try:
            return self._free.pop()
        except IndexError:
            return HostBuffer(self._memory)

    def give_back(self, buffer: HostBuffer) -> None:
        """Neither it nor what it returned may be used any more."""
        self._free.append(buffer)
