"""Improved Deep & Cross Network (Wang et al. 2021, arXiv 2008.13535)."""

from __future__ import annotations

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.dcn import DCN
from bagpipe_hpc.trainer.models.layers import initialised


class MatrixCross(nn.Module):
    """One cross layer, x_0 * (W x + b) + x.

    Parameters: (width + 1) * width or, if W = U V has rank r, (2 * r + 1) * width.

    Args:
        width: The number of columns of x.
        rank: r. None: W is one matrix.
        generator: Source of the initial parameters.
    """

    def __init__(self, width: int, rank: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.down = initialised(nn.Linear(width, rank, bias=False), generator) if rank else nn.Identity()
        self.linear = initialised(nn.Linear(rank or width, width), generator)

    def forward(self, first: torch.Tensor, crossed: torch.Tensor) -> torch.Tensor:
        """Return the x of the next layer from x_0 and x, all float32, shape (b, width)."""
        following: torch.Tensor = first * self.linear(self.down(crossed)) + crossed
        return following


class DCNv2(DCN):
    """DCN with x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, where * is elementwise: the parallel structure of the paper.

    Parameters: those of DCN, but (width + 1) * width or, with cross_rank, (2 * cross_rank + 1) * width per cross layer.
    """

    @staticmethod
    def _cross_layer(config: ModelConfig, width: int, generator: torch.Generator) -> nn.Module:
        return MatrixCross(width, config.cross_rank, generator)
