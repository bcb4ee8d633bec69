"""Wide & Deep learning (Cheng et al. 2016, arXiv 1606.07792)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import Concatenation, FirstOrder, mlp


class WideDeep(nn.Module):
    """A linear model and an MLP, trained together.

    logit = w . dense + sum of w_id over the ids + deep([dense, embeddings]). A cross-product transformation of the
    paper's wide part is one more table of the data set, whose ids stand for combinations.

    Parameters: num_dense + mlp(num_dense + num_tables * dim, *top_mlp, 1). Rows are [embedding | w_id].

    Args:
        config: Sizes.
        num_dense: Dense features; may be 0.
        num_tables: Sparse features.
        generator: Source of the initial parameters.
        dims: Columns in use of each embedding, where they are not all.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_dense: int,
        num_tables: int,
        generator: torch.Generator,
        dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.concatenation = Concatenation(num_tables, config.embedding_dim, dims)
        self.wide = FirstOrder(num_dense)
        self.deep = mlp([num_dense + self.concatenation.width, *config.top_mlp, 1], generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Logits (b,) from dense (b, num_dense) and embedded (b, num_tables, embedding_dim + 1)."""
        deep = self.deep(torch.cat([dense, self.concatenation(embedded[:, :, :-1])], dim=1))
        logits: torch.Tensor = self.wide(dense, embedded) + deep.squeeze(1)
        return logits
