"""Rows of several ranks, block by block."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.transport.blocks import blocks_by_rank


def test_ranks_without_rows_have_no_block() -> None:
    rows = np.arange(10).reshape(5, 2)
    blocks = {rank: block.tolist() for rank, block in blocks_by_rank(rows, np.array([0, 2, 0, 3], np.int32))}
    assert blocks == {1: rows[:2].tolist(), 3: rows[2:].tolist()}
