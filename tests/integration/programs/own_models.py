"""Models and training loops of somebody's own."""

from __future__ import annotations

import random

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc import ModelInputs, Session
from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.dlrm import DLRM


def dlrm(inputs: ModelInputs) -> nn.Module:
    """The built-in one, its parameters included."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return DLRM(ModelConfig(embedding_dim=inputs.embedding_dim), inputs.num_dense, len(inputs.tables), generator)


class Noisy(nn.Module):
    """Draws random numbers, has a frozen parameter and one it never uses, and cannot take a batch without samples."""

    def __init__(self, inputs: ModelInputs, hidden: int) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.layers = nn.Sequential(nn.LazyLinear(hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 1))

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        columns = torch.cat([dense, embedded.view(len(embedded), -1)], dim=1) * self.frozen
        logits: torch.Tensor = self.layers(columns).view(-1)
        return logits


def noisy(inputs: ModelInputs, hidden: int = 8) -> nn.Module:
    return Noisy(inputs, hidden)


def unequal(inputs: ModelInputs) -> nn.Module:
    """Another one at every trainer."""
    model = Noisy(inputs, 1)
    model.unused.data *= random.SystemRandom().random()
    return model


def train_by_logits(session: Session) -> None:
    """In the precision of the job."""
    for batch in session:
        losses = functional.binary_cross_entropy_with_logits(batch.logits(), batch.labels, reduction="none")
        session.step(batch.mean(losses))


def train_by_tables(session: Session) -> None:
    """The same of tensors one by one."""
    for batch in session:
        assert len(batch) > 0
        assert session.model.training
        embedded = torch.stack([batch[f"t{index}"] for index in range(batch.embedded.shape[1])], dim=1)
        logits = session.model(batch.dense, embedded)
        losses = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
        session.step(losses / batch.num_global_samples)


class Explosive(nn.Module):
    """Predicts 0 and has gradients that the first update does not survive: of its bias, or of the rows."""

    def __init__(self, of_rows: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.of_rows = of_rows

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        zero = (embedded - embedded.detach()).sum((1, 2)) if self.of_rows else self.bias.expand(len(embedded))
        return zero * 1e38 + 0 * self.bias


def explosive(inputs: ModelInputs) -> nn.Module:
    return Explosive(of_rows=False)


def explosive_rows(inputs: ModelInputs) -> nn.Module:
    return Explosive(of_rows=True)


class Failing(nn.Module):
    """Raises in its tenth forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.num_passes = 0

    def forward(self, dense: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        self.num_passes += 1
        if self.num_passes == 10:
            raise ValueError("the model fails on purpose")
        return self.bias.expand(len(dense))


def failing(_: ModelInputs) -> nn.Module:
    return Failing()
