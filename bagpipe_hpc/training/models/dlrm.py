"""Deep Learning Recommendation Model (Naumov et al. 2019, arXiv 1906.00091)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class DLRM(nn.Module):
    """Bottom MLP over dense features, pairwise dot products of all vectors, top MLP.

    Parameters: the two MLPs; embedding rows come from outside. Without dense features there is no bottom MLP.

    Args:
        num_dense: Dense features; may be 0.
        num_tables: Sparse features.
        embedding_dim: Columns of an embedding row and of the bottom MLP's output.
        bottom_mlp: Hidden sizes of the bottom MLP.
        top_mlp: Hidden sizes of the top MLP.
        generator: Source of the initial parameters.
    """

    def __init__(
        self,
        num_dense: int,
        num_tables: int,
        embedding_dim: int,
        bottom_mlp: Sequence[int],
        top_mlp: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.bottom = _mlp([num_dense, *bottom_mlp, embedding_dim], generator, last_relu=True) if num_dense else None
        num_vectors = num_tables + (1 if num_dense else 0)
        num_pairs = num_vectors * (num_vectors - 1) // 2
        num_inputs = num_pairs + (embedding_dim if num_dense else 0)
        self.top = _mlp([num_inputs, *top_mlp, 1], generator, last_relu=False)
        # Flat positions of the strict lower triangle: a plain index_select, unlike a 2-D one, is deterministic.
        rows, columns = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        self.pairs: torch.Tensor
        self.register_buffer("pairs", rows * num_vectors + columns, persistent=False)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Logits (b,) from dense (b, num_dense) and embedded (b, num_tables, embedding_dim)."""
        vectors = embedded
        parts = []
        if self.bottom is not None:
            bottom = self.bottom(dense)
            vectors = torch.cat([bottom.unsqueeze(1), embedded], dim=1)
            parts.append(bottom)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        parts.append(products.index_select(1, self.pairs))
        logits: torch.Tensor = self.top(torch.cat(parts, dim=1)).squeeze(1)
        return logits


def _mlp(sizes: Sequence[int], generator: torch.Generator, last_relu: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (num_inputs, num_outputs) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(num_inputs, num_outputs)
        with torch.no_grad():
            nn.init.normal_(linear.weight, std=(2.0 / (num_inputs + num_outputs)) ** 0.5, generator=generator)
            nn.init.normal_(linear.bias, std=(1.0 / num_outputs) ** 0.5, generator=generator)
        layers.append(linear)
        if last_relu or index < len(sizes) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
