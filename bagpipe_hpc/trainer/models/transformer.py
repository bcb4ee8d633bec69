"""Self-attention over padded histories, which sequence models share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.trainer.models.layers import initialised


class SelfAttention(nn.Module):
    """One transformer block: multi-head self-attention, then an MLP with one hidden layer, each with a residual.

    y = x + attention(norm(x)), z = y + mlp(norm(y)). There is no dropout.

    Parameters: 4 dim (dim + 1) for attention, 8 dim^2 + 5 dim for the MLP, 4 dim for the norms.

    Args:
        dim: The number of columns of x, a multiple of num_heads.
        num_heads: The number of heads.
        generator: Source of the initial parameters.
    """

    def __init__(self, dim: int, num_heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.first_norm, self.second_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inputs = initialised(nn.Linear(dim, 3 * dim), generator)
        self.output = initialised(nn.Linear(dim, dim), generator)
        self.hidden = initialised(nn.Linear(dim, 4 * dim), generator)
        self.last = initialised(nn.Linear(4 * dim, dim), generator)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Return z, float32, shape (b, n, dim).

        Args:
            x: float32, shape (b, n, dim).
            allowed: Which places each place attends to, bool, shape (b or 1, n, n); each attends to one at least.
        """
        parts = self.inputs(self.first_norm(x)).unflatten(2, (3, self._num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # each (b, heads, n, dim / heads)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~allowed.unsqueeze(1), -torch.inf).softmax(3)
        y = x + self.output((weights @ value).transpose(1, 2).flatten(2))
        z: torch.Tensor = y + self.last(functional.relu(self.hidden(self.second_norm(y))))
        return z
