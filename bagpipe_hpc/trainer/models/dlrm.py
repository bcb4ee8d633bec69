"""Deep Learning Recommendation Model (Naumov et al. 2019, arXiv 1906.00091)."""

from __future__ import annotations

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import InnerProducts, mlp


class DLRM(nn.Module):
    """A bottom MLP over the dense features, dot products of all pairs of vectors, and a top MLP.

    logit = top([v_0, <v_i, v_j> for i > j]), where v_0 = bottom(dense), and v_1, v_2, ... are the embeddings. Without
    dense features there is neither a bottom MLP nor v_0.

    Parameters: mlp(num_dense, *bottom_mlp, dim) + mlp(n (n - 1) / 2 + dim, *top_mlp, num_labels), n = num_tables + 1.

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
        dim, num_vectors = config.embedding_dim, num_tables + (num_dense > 0)
        self.bottom = mlp([num_dense, *config.bottom_mlp, dim], generator, last_relu=True) if num_dense else None
        self.products = InnerProducts(num_vectors)
        num_inputs = num_vectors * (num_vectors - 1) // 2 + (dim if num_dense else 0)
        self.top = mlp([num_inputs, *config.top_mlp, num_labels], generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
        """
        if self.bottom is None:
            inputs = self.products(embedded)
        else:
            bottom = self.bottom(dense)
            vectors = torch.cat([bottom.unsqueeze(1), embedded], dim=1)
            inputs = torch.cat([bottom, self.products(vectors)], dim=1)
        logits: torch.Tensor = self.top(inputs).squeeze(1)
        return logits
