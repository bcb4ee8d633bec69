"""Convolutional Sequence Embedding Recommendation Model, Caser (Tang & Wang 2018, arXiv 1809.07426)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import initialised


class Caser(nn.Module):
    """Convolutions over the user's last k items. The model predicts whether the user takes the candidate item next.

    The tables are, in this order: user, candidate item, the user's last k >= 1 items, oldest first. The label says
    whether the user took the candidate. Every table, and so every position, has rows of its own. There are no dense
    features. The embeddings of the last k items are the rows of an image of shape (k, dim).

    o has the outputs of horizontal_filters filters for every height 1..k. A filter is as wide as the image; a ReLU
    follows, and the output is the maximum over the image. o~ has vertical_filters weighted sums of the rows of the
    image. Then z = relu(W [o, o~] + b) and logit = w' . [z, user] + b', where w' and b' belong to the candidate. They
    are factorised, [w', b'] = candidate [U, u], so that the row of a candidate is as wide as other rows:
    logit = candidate . (U [z, user] + u). There is no dropout, because runs must repeat to the bit.

    Parameters, with F = horizontal_filters and G = vertical_filters: F * (dim * k (k + 1) / 2 + k) + G * (k + 1) +
    (k * F + dim * G + 1) * dim + (2 * dim + 1) * dim.

    Args:
        config: The sizes of the model.
        num_dense: 0.
        num_tables: k + 2.
        generator: Source of the initial parameters.
    """

    def __init__(self, config: ModelConfig, num_dense: int, num_tables: int, generator: torch.Generator) -> None:
        super().__init__()
        dim, length = config.embedding_dim, num_tables - 2
        filters, sums = config.horizontal_filters, config.vertical_filters
        self.horizontal = nn.ModuleList(
            initialised(nn.Conv2d(1, filters, (height, dim)), generator) for height in range(1, length + 1)
        )
        self.vertical = initialised(nn.Conv2d(1, sums, (length, 1)), generator)
        self.hidden = initialised(nn.Linear(filters * length + sums * dim, dim), generator)
        self.output = initialised(nn.Linear(2 * dim, dim), generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits (b,) from dense (b, 0) and embedded (b, k + 2, embedding_dim), all float32."""
        user, candidate, image = embedded[:, 0], embedded[:, 1], embedded[:, None, 2:]
        features = [functional.relu(convolution(image)).amax((2, 3)) for convolution in self.horizontal]
        z = functional.relu(self.hidden(torch.cat([*features, self.vertical(image).flatten(1)], dim=1)))
        logits: torch.Tensor = (candidate * self.output(torch.cat([z, user], dim=1))).sum(1)
        return logits
