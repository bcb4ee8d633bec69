"""DLRM with cross layers in place of dot products, as in MLPerf Training 3.0 to 5.1 (DLRM-DCNv2)."""

from __future__ import annotations

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.dcn_v2 import MatrixCross
from bagpipe_hpc.trainer.models.layers import mlp


class DLRMDCN(nn.Module):
    """A bottom MLP over the dense features, cross layers over its output and all embeddings, and a top MLP behind them.

    logit = top(x_L) with x_0 = [bottom(dense), embeddings] and x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, where * is
    elementwise. With cross_rank r, W_l = U_l V_l projects to r columns first. Without dense features there is no bottom
    MLP. In contrast to dcn_v2, the crosses and the MLP stand one behind the other.

    Parameters: mlp(num_dense, *bottom_mlp, dim) + (width + 1) * width or, with cross_rank, (2 * cross_rank + 1) * width
    per cross layer + mlp(width, *top_mlp, num_labels), where width = (num_tables + 1) * dim.

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of sparse features.
        generator: Source of the initial parameters.
        num_labels: The number of logits per sample.
    """

    def __init__(
        self, config: ModelConfig, num_dense: int, num_tables: int, generator: torch.Generator, num_labels: int = 1
    ) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.bottom = mlp([num_dense, *config.bottom_mlp, dim], generator, last_relu=True) if num_dense else None
        width = (num_tables + (num_dense > 0)) * dim
        self.cross = nn.ModuleList(MatrixCross(width, config.cross_rank, generator) for _ in range(config.cross_layers))
        self.top = mlp([width, *config.top_mlp, num_labels], generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
        """
        first = embedded.flatten(1)
        if self.bottom is not None:
            first = torch.cat([self.bottom(dense), first], dim=1)
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        logits: torch.Tensor = self.top(crossed).squeeze(1)
        return logits
