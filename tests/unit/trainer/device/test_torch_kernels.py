"""Kernels in operations of torch against the loops of the CPU, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bagpipe_hpc.config import ScheduleConfig
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.trainer.device.base import UpdateLists
from bagpipe_hpc.trainer.device.cpu import CpuKernels
from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels
from bagpipe_hpc.trainer.row_optimizer import RowAdagrad
from tests.kernels import check_kernels, random_lists

DIM = 3


def on_torch(lists: UpdateLists) -> UpdateLists:
    slots, positions, index = (torch.from_numpy(each) for each in (lists.slots, lists.positions, lists.index))
    return UpdateLists(slots, positions, lists.num_own, index, lists.starts, lists.rank)


@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize(("num_trainers", "rank"), [(1, 0), (2, 1), (4, 0), (8, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_sums(in_tree: bool, num_trainers: int, rank: int, seed: int) -> None:
    lists, own, arrived = random_lists(num_trainers, rank, DIM, seed)
    expected = CpuKernels().add_up(lists, own, arrived, in_tree=in_tree)
    found = TorchKernels().add_up(on_torch(lists), torch.from_numpy(own), torch.from_numpy(arrived), in_tree=in_tree)
    assert found.numpy().tobytes() == expected.numpy().tobytes()


def test_the_same_updates() -> None:
    lists, own, arrived = random_lists(4, 1, DIM, seed=7)
    optimizer = RowAdagrad(LearningRate(0.1, ScheduleConfig()), 1e-10)
    rows = np.random.default_rng(0).random((40, 2 * DIM), np.float32)
    expected, found = rows.copy(), torch.from_numpy(rows.copy())
    CpuKernels().update(expected, lists, own, arrived, optimizer, 3, in_tree=False)
    arguments = on_torch(lists), torch.from_numpy(own), torch.from_numpy(arrived)
    TorchKernels().update(found, *arguments, optimizer, 3, in_tree=False)
    assert found.numpy().tobytes() == expected.tobytes() != rows.tobytes()


def test_the_same_rows() -> None:
    check_kernels(TorchKernels(), torch.from_numpy, lambda tensor: tensor.numpy())


def test_rows_of_the_cpu() -> None:
    def same(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array

    check_kernels(CpuKernels(), same, same)
