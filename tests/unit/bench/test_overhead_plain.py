"""The cost of a model in plain PyTorch."""

from __future__ import annotations

import torch
from torch import nn

from bagpipe_hpc.bench.overhead_plain import plain_microseconds


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        return dense @ self.weight + embedded.sum((1, 2))


def test_it_takes_time_and_leaves_the_model_as_it_is() -> None:
    model = Model()
    assert plain_microseconds(model, torch.ones(2, 3), torch.ones(2), num_tables=4, dim=5, iterations=6) > 0
    assert model.weight.tolist() == [1.0, 1.0, 1.0]
