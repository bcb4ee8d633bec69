"""Optimizers of embedding rows: one step per row and iteration, at the row's owner."""

from __future__ import annotations

from typing import Protocol

import torch


class RowOptimizer(Protocol):
    """State lives in the row, behind the embedding, and travels with it."""

    def step(self, rows: torch.Tensor, gradients: torch.Tensor) -> None:
        """Update rows, float32 (n, row_width), in place from gradients (n, embedding_dim)."""


class RowSGD:
    """Plain stochastic gradient descent, as torch.optim.SGD."""

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def step(self, rows: torch.Tensor, gradients: torch.Tensor) -> None:
        rows.add_(gradients, alpha=-self._learning_rate)
