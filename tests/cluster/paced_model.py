"""A model whose passes take a given time without keeping a core busy, as those of a GPU: a stand-in for one.

Used as `model.factory: tests.cluster.paced_model:build`. A third of the time is in the forward pass.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from bagpipe_hpc import ModelInputs

FORWARD_SHARE = 1 / 3


class _Pause(torch.autograd.Function):
    """The identity; each of its passes takes some time."""

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, seconds: float) -> torch.Tensor:
        context.seconds = (1 - FORWARD_SHARE) * seconds
        time.sleep(FORWARD_SHARE * seconds)
        return logits.view_as(logits)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        time.sleep(context.seconds)
        return gradients[0], None


class PacedModel(torch.nn.Module):
    """A small model.

    Args:
        inputs: The shapes of its inputs.
        hidden: Neurons of its hidden layer.
        seconds_per_sample: Time of both passes.
    """

    def __init__(self, inputs: ModelInputs, hidden: int, seconds_per_sample: float) -> None:
        super().__init__()
        width = inputs.num_dense + len(inputs.tables) * inputs.embedding_dim
        self.layers = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
        self.seconds_per_sample = seconds_per_sample

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        logits = self.layers(torch.cat([dense, embedded.flatten(1)], dim=1)).squeeze(1)
        paced: torch.Tensor = _Pause.apply(logits, self.seconds_per_sample * len(dense))  # type: ignore[no-untyped-call]
        return paced


def build(inputs: ModelInputs, hidden: int, seconds_per_sample: float) -> PacedModel:
    return PacedModel(inputs, hidden, seconds_per_sample)
