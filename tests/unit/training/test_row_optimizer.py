"""Optimizers of rows do what PyTorch's do."""

from __future__ import annotations

import pytest
import torch

from bagpipe_hpc.training.row_optimizer import RowSGD


@pytest.mark.parametrize("learning_rate", [1.0, 0.1, 0.013, 1e-8])
@pytest.mark.parametrize("dim", [1, 5, 16])
def test_sgd_is_pytorchs_to_the_bit(learning_rate: float, dim: int) -> None:
    torch.manual_seed(dim)
    rows, optimizer = torch.randn(37, dim), RowSGD(learning_rate)
    parameter = torch.nn.Parameter(rows.clone())
    theirs = torch.optim.SGD([parameter], lr=learning_rate)
    for _ in range(3):
        parameter.grad = torch.randn(37, dim)
        theirs.step()
        optimizer.step(rows, parameter.grad)
    assert torch.equal(rows, parameter.detach())


@pytest.mark.parametrize("learning_rate", [0.1, 0.013])
def test_a_rows_place_among_others_does_not_matter(learning_rate: float) -> None:
    """Vectorised and remaining elements of an array must be rounded alike."""
    torch.manual_seed(0)
    rows, gradients, optimizer = torch.randn(300, 5), torch.randn(300, 5), RowSGD(learning_rate)
    together = rows.clone()
    optimizer.step(together, gradients)
    for start in range(300):
        alone = rows[start : start + 1].clone()
        optimizer.step(alone, gradients[start : start + 1])
        assert torch.equal(alone[0], together[start])


def test_no_rows_is_a_valid_step() -> None:
    RowSGD(1.0).step(torch.empty(0, 4), torch.empty(0, 4))
