"""Wide & Deep learning (Cheng et al. 2016, arXiv 1606.07792)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import Concatenation, FirstOrder, mlp


class WideDeep(nn.Module):
    """A linear model and an MLP that are trained together.

    logit = w . dense + sum of w_id over the ids + deep([dense, embeddings]). For a cross-product transformation of the
    paper's wide part, the data set needs one more table whose ids stand for combinations. Several labels share the
    linear model.

    Parameters: num_dense + mlp(num_dense + num_tables * dim, *top_mlp, num_labels). Rows are [embedding | w_id].

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
        self.wide = FirstOrder(num_dense)
        self.deep = mlp([num_dense + self.concatenation.width, *config.top_mlp, num_labels], generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim + 1).
        """
        deep = self.deep(torch.cat([dense, self.concatenation(embedded[:, :, :-1])], dim=1))
        logits: torch.Tensor = (self.wide(dense, embedded).unsqueeze(1) + deep).squeeze(1)
        return logits
