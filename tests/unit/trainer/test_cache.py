"""Rows by slot."""

from __future__ import annotations

import numpy as np
import torch

from bagpipe_hpc.trainer.cache import RowCache, in_own_memory, to_device, to_host

CPU = torch.device("cpu")


def slots(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def test_what_is_written_is_read_in_any_order() -> None:
    cache = RowCache(6, 2, CPU)
    cache.write(slots(4, 0, 2), torch.tensor([[4.0, 40.0], [0.0, 0.5], [2.0, 20.0]]))
    assert cache.read(slots(0, 2, 4, 2)).tolist() == [[0.0, 0.5], [2.0, 20.0], [4.0, 40.0], [2.0, 20.0]]
    cache.write(slots(2), torch.tensor([[7.0, 7.0]]))
    assert cache.read(slots(4, 2)).tolist() == [[4.0, 40.0], [7.0, 7.0]]


def test_reads_are_copies() -> None:
    cache = RowCache(3, 1, CPU)
    cache.write(slots(1), torch.ones(1, 1))
    rows = cache.read(slots(1))
    rows.zero_()
    assert cache.read(slots(1)).item() == 1


def test_no_slots_is_a_valid_request() -> None:
    cache = RowCache(3, 5, CPU)
    cache.write(slots(), torch.empty(0, 5))
    assert cache.read(slots()).shape == (0, 5)


def test_views_of_slots_will_do() -> None:
    cache = RowCache(4, 1, CPU)
    cache.write(slots(0, 9, 1, 9, 3)[::2], torch.tensor([[0.0], [1.0], [3.0]]))
    assert cache.read(slots(3, 0, 1)).ravel().tolist() == [3, 0, 1]


def test_arrays_cross_over_and_back() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = to_device(rows, CPU).requires_grad_()
    assert to_host(tensor).tolist() == rows.tolist()
    transposed = to_host(tensor.T)
    assert transposed.tolist() == rows.T.tolist()
    assert transposed.flags.c_contiguous


def test_arrays_of_a_plan_become_aligned() -> None:
    message = np.arange(66, dtype=np.float32)
    for begin in range(3):
        array = message[begin : begin + 60].reshape(12, 5)
        tensor = in_own_memory(array, CPU)
        assert tensor.data_ptr() % 64 == 0
        assert tensor.numpy().tobytes() == array.tobytes()
        assert not np.shares_memory(tensor.numpy(), message)
