"""Deep & Cross Network (Wang et al. 2017, arXiv 1708.05123)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import Concatenation, initialised, mlp


class VectorCross(nn.Module):
    """One cross layer, x_0 (w . x) + b + x. It has 2 * width parameters.

    Args:
        width: The number of columns of x.
        generator: Source of the initial parameters.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = initialised(nn.Linear(width, 1, bias=False), generator)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, first: torch.Tensor, crossed: torch.Tensor) -> torch.Tensor:
        """Return the x of the next layer from x_0 and x, all float32, shape (b, width)."""
        following: torch.Tensor = first * self.weight(crossed) + self.bias + crossed
        return following


class DCN(nn.Module):
    """Cross layers and an MLP side by side. Each cross layer raises the degree of the feature crosses by one.

    logit = w . [x_L, deep(x_0)] + b with x_0 = [dense, embeddings] and x_{l+1} = x_0 (w_l . x_l) + b_l + x_l.

    Parameters: 2 * width * cross_layers + mlp(width, *top_mlp) + (width + last of top_mlp + 1) * num_labels,
    where width = num_dense + num_tables * dim.

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of sparse features.
        generator: Source of the initial parameters.
        dims: How many columns of each embedding are in use. Empty: all are in use.
        num_labels: The number of logits per sample.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_dense: int,
        num_tables: int,
        generator: torch.Generator,
        dims: Sequence[int] = (),
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        self.concatenation = Concatenation(num_tables, config.embedding_dim, dims)
        sizes = [num_dense + self.concatenation.width, *config.top_mlp]
        self.cross = nn.ModuleList(self._cross_layer(config, sizes[0], generator) for _ in range(config.cross_layers))
        self.deep = mlp(sizes, generator, last_relu=True)
        self.output = initialised(nn.Linear(sizes[0] + sizes[-1], num_labels), generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
        """
        first = crossed = torch.cat([dense, self.concatenation(embedded)], dim=1)
        for layer in self.cross:
            crossed = layer(first, crossed)
        logits: torch.Tensor = self.output(torch.cat([crossed, self.deep(first)], dim=1)).squeeze(1)
        return logits

    @staticmethod
    def _cross_layer(config: ModelConfig, width: int, generator: torch.Generator) -> nn.Module:
        return VectorCross(width, generator)
