"""Communication buffers: allocated once."""

from __future__ import annotations

import numpy as np
import torch

from bagpipe_hpc.trainer.buffers import BufferPool, HostBuffer, HostMemory


def test_a_buffer_grows_by_doubling_and_never_shrinks() -> None:
    memory = HostMemory(torch.device("cpu"))
    buffer = HostBuffer(memory)
    for num_rows, num_allocations in ((0, 0), (3, 1), (4, 1), (2, 1), (5, 2), (8, 2), (9, 3), (1, 3), (16, 3)):
        rows = buffer.rows(num_rows, 8)
        assert (rows.shape, rows.dtype, rows.flags.c_contiguous) == ((num_rows, 8), np.dtype(np.float32), True)
        assert memory.num_allocations == num_allocations
    assert buffer.rows(32, 8, np.int16).dtype == np.int16
    assert memory.num_allocations == 3


def test_a_buffer_takes_tensors_of_either_type() -> None:
    buffer = HostBuffer(HostMemory(torch.device("cpu")))
    for dtype in (torch.float32, torch.int16):
        tensor = torch.arange(12).view(4, 3).to(dtype)
        assert buffer.fill(tensor[:, :2]).tolist() == tensor[:, :2].tolist()


def test_buffers_are_handed_out_again_once_given_back() -> None:
    pool = BufferPool(HostMemory(torch.device("cpu")))
    first, second = pool.take(), pool.take()
    assert first is not second
    pool.give_back(first)
    assert pool.take() is first
