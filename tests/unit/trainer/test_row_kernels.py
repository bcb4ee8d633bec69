"""Loops over rows against numpy."""

from __future__ import annotations

from typing import Any

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
from bagpipe_hpc.trainer.row_kernels import add_gradients, add_gradients_in_tree, copy_rows, positions_of

COUNTS = np.array([[1, 2, 0, 1], [0, 0, 0, 0], [0, 1, 3, 2]], dtype=np.int32)
PARTS = {
    "everything": (EVERYTHING, range(10)),
    "early pushes": (EARLY_PUSHES, [0, 1, 2, 4]),
    "critical pushes": (CRITICAL_PUSHES, [3, 5, 6, 7, 8, 9]),
    "critical gradients": (CRITICAL_GRADIENTS, [1, 2, 4, 5, 6, 7]),
    "delayed gradients": (DELAYED_GRADIENTS, [0, 3, 8, 9]),
}


@pytest.mark.parametrize(("part", "positions"), PARTS.values(), ids=PARTS)
def test_positions_of_parts(part: Part, positions: list[int]) -> None:
    assert positions_of(GrayBlocks(COUNTS).edges, part).tolist() == list(positions)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_the_first_columns_of_rows_are_copied(dtype: Any, index: Any) -> None:
    rows = np.arange(30).reshape(6, 5).astype(dtype)
    positions = np.array([5, 0, 3], dtype=index)
    positions.flags.writeable = False  # as the arrays of a plan
    out = np.full((3, 4), -1, dtype=dtype)
    copy_rows(rows, positions, out)
    np.testing.assert_array_equal(out, rows[positions, :4])


@pytest.mark.parametrize(("part", "_positions"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_gradients_are_added_in_the_order_of_trainers(part: Part, _positions: list[int], rank: int) -> None:
    random = np.random.default_rng(rank)
    counts = COUNTS.copy()
    counts[rank] = 0
    blocks, num_updates, num_own, dim = GrayBlocks(counts), 9, 4, 3
    # a trainer's block names each row at most once
    push_index = np.concatenate([random.permutation(num_updates)[:count] for count in counts.sum(axis=1)])
    pushed = push_index[positions_of(blocks.edges, part)]
    positions = np.union1d(pushed, random.permutation(num_updates)[:3])
    own = random.normal(size=(num_own, dim)).astype(np.float32)
    arrived = random.normal(size=(len(pushed), dim)).astype(np.float32)

    expected = np.zeros((num_updates, dim), np.float32)
    start = 0
    for trainer, count in enumerate(blocks.counts(part).tolist()):
        if trainer == rank:
            expected[:num_own] += own
        expected[pushed[start : start + count]] += arrived[start : start + count]
        start += count

    sums = np.zeros((len(positions), dim), np.float32)
    add_gradients(
        sums, positions, own, rank, push_index.astype(np.int32), blocks.edges, part, arrived, num_updates
    )  # fmt: skip
    assert sums.tobytes() == expected[positions].tobytes()


def random_pushes(
    random: np.random.Generator, num_trainers: int, rank: int, num_updates: int
) -> tuple[GrayBlocks, np.ndarray]:
    """The rows that a trainer pushes, and their push_index, in which a trainer's block names each row at most once."""
    counts = random.integers(0, 3, (num_trainers, 4)).astype(np.int32)
    counts[rank] = 0
    rows = [random.permutation(num_updates)[:count] for count in counts.sum(axis=1)]
    return GrayBlocks(counts), np.concatenate(rows).astype(np.int32)


def tree_sum(leaves: list[np.ndarray]) -> np.ndarray:
    half = len(leaves) // 2
    return tree_sum(leaves[:half]) + tree_sum(leaves[half:]) if half else leaves[0]


@pytest.mark.parametrize(("part", "_positions"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(("num_trainers", "rank"), [(1, 0), (2, 1), (4, 0), (4, 2), (8, 5)])
def test_gradients_are_added_in_the_order_of_a_tree(
    part: Part, _positions: list[int], num_trainers: int, rank: int
) -> None:
    random = np.random.default_rng(num_trainers)
    num_updates, num_own, dim = 9, 4, 3
    blocks, push_index = random_pushes(random, num_trainers, rank, num_updates)
    pushed = push_index[positions_of(blocks.edges, part)]
    positions = np.union1d(pushed, random.permutation(num_updates)[:3]).astype(np.int64)
    own = random.normal(size=(num_own, dim)).astype(np.float32)
    arrived = random.normal(size=(len(pushed), dim)).astype(np.float32)

    leaves = [np.zeros((num_updates, dim), np.float32) for _ in range(num_trainers)]
    leaves[rank][:num_own] = own
    start = 0
    for trainer, count in enumerate(blocks.counts(part).tolist()):
        leaves[trainer][pushed[start : start + count]] += arrived[start : start + count]
        start += count

    sums = np.full((len(positions), dim), np.nan, np.float32)
    add_gradients_in_tree(sums, positions, own, rank, push_index, blocks.edges, part, arrived, num_updates)
    assert sums.tobytes() == tree_sum(leaves)[positions].tobytes()
