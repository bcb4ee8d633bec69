"""Sums in the order of a binary tree, against the tree itself."""

from __future__ import annotations

import pytest
import torch

from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator


def tree(items: list[torch.Tensor]) -> torch.Tensor:
    half = len(items) // 2
    return tree(items[:half]) + tree(items[half:]) if half else items[0]


@pytest.mark.parametrize("number", [1, 2, 4, 8, 32])
def test_the_order_is_that_of_the_tree(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    items = [torch.randn(50, generator=generator) for _ in range(number)]
    sums = TreeAccumulator()
    for _ in range(2):  # it begins anew after each total
        for item in items:
            sums.add(item.clone())
        assert sums.total().equal(tree(items))
