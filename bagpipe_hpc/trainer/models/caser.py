"""Convolutional Sequence Embedding Recommendation Model, Caser (Tang & Wang 2018, arXiv 1809.07426)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import initialised


class Caser(nn.Module):
    """Does a user take this item next? Convolutions over the image (k, dim) of the user's last k items tell.

    The tables are, in this order: user, candidate item, the user's last k >= 1 items, oldest first. Labels say whether
    the candidate was taken. Every table, and so every position, has rows of its own. There are no dense features.

    o: each of horizontal_filters filters for every height 1..k, as wide as the image, ReLU, its maximum over the image.
    o~: vertical_filters weighted sums of the image's rows. z = relu(W [o, o~] + b), logit = w' . [z, user] + b', with
    w' and b' of the candidate. These are kept factorised, [w', b'] = candidate [U, u], so that a candidate's row is as
    wide as any: logit = candidate . (U [z, user] + u). No dropout: a run would not repeat itself.

    Parameters, F = horizontal_filters and G = vertical_filters: F * (dim * k (k + 1) / 2 + k) + G * (k + 1) +
    (k * F + dim * G + 1) * dim + (2 * dim + 1) * dim.

    Args:
        config: Sizes.
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
        """Logits (b,) from dense (b, 0) and embedded (b, k + 2, embedding_dim)."""
        user, candidate, image = embedded[:, 0], embedded[:, 1], embedded[:, None, 2:]
        features = [functional.relu(convolution(image)).amax((2, 3)) for convolution in self.horizontal]
        z = functional.relu(self.hidden(torch.cat([*features, self.vertical(image).flatten(1)], dim=1)))
        logits: torch.Tensor = (candidate * self.output(torch.cat([z, user], dim=1))).sum(1)
        return logits
