"""Where the parts of exchanged rows lie."""

from __future__ import annotations

import numpy as np
import pytest

from bagpipe_hpc.trainer.gray_blocks import (
    CRITICAL_GRADIENTS,
    CRITICAL_PUSHES,
    DELAYED_GRADIENTS,
    EARLY_PUSHES,
    EVERYTHING,
    GrayBlocks,
    Part,
)

COUNTS = np.array([[1, 2, 0, 1], [0, 0, 0, 0], [0, 1, 3, 2]], dtype=np.int32)
ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)


def test_edges_are_the_running_sum_of_the_counts() -> None:
    assert GrayBlocks(COUNTS).edges.tolist() == [[0, 1, 3, 3, 4], [4, 4, 4, 4, 4], [4, 4, 5, 8, 10]]
    assert len(GrayBlocks(COUNTS)) == 10


def test_a_trainer_alone_exchanges_nothing() -> None:
    blocks = GrayBlocks(np.zeros((1, 4), dtype=np.int32))
    assert len(blocks) == 0
    assert blocks.runs(EVERYTHING, ROWS[:0]) == []


@pytest.mark.parametrize(
    ("part", "counts"),
    [
        (EVERYTHING, [4, 0, 6]),
        (EARLY_PUSHES, [3, 0, 1]),
        (CRITICAL_PUSHES, [1, 0, 5]),
        (CRITICAL_GRADIENTS, [2, 0, 4]),
        (DELAYED_GRADIENTS, [2, 0, 2]),
    ],
)
def test_counts_of_parts(part: Part, counts: list[int]) -> None:
    assert GrayBlocks(COUNTS).counts(part).tolist() == counts


def test_runs_share_the_memory_of_the_rows() -> None:
    runs = GrayBlocks(COUNTS).runs(CRITICAL_GRADIENTS, ROWS)
    assert [(trainer, rows[:, 0].tolist()) for trainer, rows in runs] == [(0, [2.0, 4.0]), (2, [8.0, 10.0, 12.0, 14.0])]
    assert all(np.shares_memory(rows, ROWS) for _, rows in runs)
