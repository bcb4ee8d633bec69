from __future__ import annotations

import numpy as np
import psutil

from bagpipe_hpc.store.lazy_memory import lazy_rows


def test_rows_are_zero_and_writable() -> None:
    rows = lazy_rows(10, 3)
    assert rows.shape == (10, 3)
    assert rows.dtype == np.float32
    assert not rows.any()
    rows[9] = 7
    assert rows.sum() == 21


def test_no_rows() -> None:
    assert lazy_rows(0, 4).shape == (0, 4)


def test_a_shard_larger_than_the_machine_costs_what_is_touched() -> None:
    row_width = 16
    num_rows = 4 * psutil.virtual_memory().total // (4 * row_width)
    before = psutil.Process().memory_info().rss
    rows = lazy_rows(num_rows, row_width)
    rows[:: num_rows // 100] = 1
    assert psutil.Process().memory_info().rss - before < 64 << 20
