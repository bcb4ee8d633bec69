"""Arrays that cost what is touched of them, also where the system hands out huge pages."""

from __future__ import annotations

import numpy as np
import psutil

from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.lookahead.next_use import DenseKeyState

MIB = 1 << 20


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_elements_are_zero_and_writable() -> None:
    rows = lazy_zeros((10, 3), np.float32)
    assert (rows.shape, rows.dtype) == ((10, 3), np.dtype(np.float32))
    assert not rows.any()
    rows[9] = 7
    assert rows.sum() == 21


def test_an_empty_array() -> None:
    assert lazy_zeros((0, 4), np.float32).shape == (0, 4)


def test_an_array_larger_than_the_machine_costs_what_is_touched() -> None:
    row_width = 16
    num_rows = 4 * psutil.virtual_memory().total // (4 * row_width)
    before = resident_bytes()
    rows = lazy_zeros((num_rows, row_width), np.float32)
    rows[:: num_rows // 100] = 1
    assert resident_bytes() - before < 64 * MIB


def test_scattered_keys_of_a_large_table_cost_a_page_each() -> None:
    num_keys, num_used = 300_000_000, 12_000
    before = resident_bytes()
    states = DenseKeyState(num_keys).states
    states[:: num_keys // num_used] = 1
    assert resident_bytes() - before < 2 * num_used * 4096  # with huge pages 2,300 MB
