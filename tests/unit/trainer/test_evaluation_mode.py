"""Predicting leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagpipe_hpc.trainer.evaluation_mode import undisturbed


class Drawing(nn.Module):
    """Draws a random number whatever the mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(())


def model() -> nn.Sequential:
    built = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), Drawing(), nn.BatchNorm1d(3))
    built[4].eval()  # as somebody left it
    return built


def test_modes_buffers_and_random_numbers_stay() -> None:
    torch.manual_seed(3)
    disturbed, left_alone = model(), model()
    left_alone.load_state_dict(disturbed.state_dict())
    state = torch.get_rng_state()
    with undisturbed(disturbed, torch.device("cpu")):
        assert not any(module.training for module in disturbed.modules())
        assert not disturbed(torch.ones(2, 3)).requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in disturbed.modules()] == [module.training for module in left_alone.modules()]
    for name, value in left_alone.state_dict().items():
        assert torch.equal(disturbed.state_dict()[name], value), name


def test_so_it_is_after_a_failure() -> None:
    failing = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError), undisturbed(failing, torch.device("cpu")):
        failing(torch.ones(2, 4))
    assert failing.training
    assert torch.is_grad_enabled()
