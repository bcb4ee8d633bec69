"""DeepFM (Guo et al. 2017, arXiv 1703.04247)."""

from __future__ import annotations

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import Fields, FirstOrder, mlp


class DeepFM(nn.Module):
    """A factorisation machine and an MLP over the same vectors.

    logit = w . dense + sum of w_id over the ids + sum of <v_i, v_j> over i > j + deep([v_1, v_2, ...]), where v_i is an
    embedding or, for a dense feature, a vector of parameters times the value of the feature. The sum over pairs is
    (|sum v_i|^2 - sum |v_i|^2) / 2. Several labels share all terms but the last one.

    Parameters: num_dense * (dim + 1) + mlp(n * dim, *top_mlp, num_labels), n = num_dense + num_tables. Rows are
    [embedding | w_id].

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
        self.first_order = FirstOrder(num_dense)
        self.fields = Fields(num_dense, config.embedding_dim, generator)
        self.deep = mlp([(num_dense + num_tables) * config.embedding_dim, *config.top_mlp, num_labels], generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim + 1).
        """
        fields = self.fields(dense, embedded[:, :, :-1])
        pairs = (fields.sum(1).square() - fields.square().sum(1)).sum(1) / 2
        shared = self.first_order(dense, embedded) + pairs
        logits: torch.Tensor = (shared.unsqueeze(1) + self.deep(fields.flatten(1))).squeeze(1)
        return logits
