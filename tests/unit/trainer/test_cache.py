"""Rows by slot."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.device.cpu import CpuDevice


def slots(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_what_is_written_is_read_in_any_order() -> None:
    cache = RowCache(6, 2, CpuDevice())
    cache.insert(slots(4, 0, 2), rows([4, 40], [0, 0.5], [2, 20]))
    assert cache.keep(slots(0, 2, 4, 2)).tolist() == [[0.0, 0.5], [2.0, 20.0], [4.0, 40.0], [2.0, 20.0]]
    cache.restore(slots(2), rows([7, 7]))
    assert cache.keep(slots(4, 2)).tolist() == [[4.0, 40.0], [7.0, 7.0]]
    assert cache.read(slots(4, 2), 1).tolist() == [[4.0], [7.0]]


def test_copies_go_where_they_belong() -> None:
    cache = RowCache(6, 2, CpuDevice())
    cache.insert(slots(4, 0, 2), rows([4, 40], [0, 0.5], [2, 20]))
    out = np.full((3, 2), -1, np.float32)
    cache.copy_to(slots(2, 4), out, np.array([2, 0]))
    assert out.tolist() == [[4, 40], [-1, -1], [2, 20]]
    cache.copy(slots(0, 2, 4), out[:, :1])
    assert out.tolist() == [[0, 40], [2, -1], [4, 20]]


def test_what_is_kept_is_a_copy() -> None:
    cache = RowCache(3, 1, CpuDevice())
    cache.insert(slots(1), rows([1]))
    kept = cache.keep(slots(1))
    kept[:] = 0
    assert cache.keep(slots(1)).tolist() == [[1]]


def test_no_slots_is_a_valid_request() -> None:
    cache = RowCache(3, 5, CpuDevice())
    cache.restore(slots(), np.empty((0, 5), np.float32))
    assert cache.keep(slots()).shape == (0, 5)
    assert (cache.num_slots, cache.row_width) == (3, 5)
