"""Sums in torch operations against the loops over rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagpipe_hpc.trainer.gray_blocks import Part
from bagpipe_hpc.trainer.row_kernels import add_gradients, add_gradients_in_tree, positions_of
from bagpipe_hpc.trainer.row_sums import summed_gradients
from tests.unit.trainer.test_row_kernels import PARTS, random_pushes

DIM = 3


@pytest.mark.parametrize(("part", "_positions"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize(("num_trainers", "rank"), [(1, 0), (2, 1), (4, 0), (8, 5)])
def test_the_same_sums(part: Part, _positions: list[int], in_tree: bool, num_trainers: int, rank: int) -> None:
    random = np.random.default_rng(num_trainers)
    num_updates, num_own = 9, 4
    pushed, push_index = random_pushes(random, num_trainers, rank, num_updates)
    in_part = push_index[positions_of(pushed.edges, part)]
    positions = np.union1d(in_part, random.permutation(num_updates)[:3]).astype(np.int64)
    own = random.normal(size=(num_own, DIM)).astype(np.float32)
    arrived = random.normal(size=(len(in_part), DIM)).astype(np.float32)

    expected = np.zeros((len(positions), DIM), np.float32)
    add = add_gradients_in_tree if in_tree else add_gradients
    add(expected, positions, own, rank, push_index, pushed.edges, part, arrived, num_updates)
    found = summed_gradients(
        positions, torch.from_numpy(own), rank, push_index, pushed, part, torch.from_numpy(arrived), num_updates,
        in_tree=in_tree,
    )  # fmt: skip
    assert found.numpy().tobytes() == expected.tobytes()
