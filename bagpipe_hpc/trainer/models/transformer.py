"""Self-attention over histories, which sequence models share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.trainer.device.placement import is_in_host_memory
from bagpipe_hpc.trainer.models.layers import initialised
from bagpipe_hpc.trainer.models.pieces import causal, in_pieces
from bagpipe_hpc.trainer.models.tokens import TokenGroup, Tokens


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

    def forward(
        self, x: torch.Tensor, tokens: Tokens, *, is_causal: bool, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return z of all tokens, or of one of each sample, float32, shape (m, dim).

        Args:
            x: float32, shape (number of tokens, dim).
            tokens: Which token belongs to which sample.
            is_causal: Whether a token attends to itself and to earlier tokens of its sample; otherwise, to all of them.
            queries: The token of each sample that attends, int64, shape (b,); the last one, if is_causal. None: all
                tokens attend.
        """
        x_norm, dim = self.first_norm(x), x.shape[1]
        if queries is None:
            query, key_value = self.inputs(x_norm).split([dim, 2 * dim], 1)
        else:
            x = x.index_select(0, queries)
            query = functional.linear(x_norm.index_select(0, queries), self.inputs.weight[:dim], self.inputs.bias[:dim])
            key_value = functional.linear(x_norm, self.inputs.weight[dim:], self.inputs.bias[dim:])
        attention = partial(softmax_attention, is_causal=is_causal)
        mixed = tokens.attend(query, key_value, self._num_heads, attention, is_single=queries is not None)
        y = x + self.output(mixed)
        z: torch.Tensor = y + self.last(functional.relu(self.hidden(self.second_norm(y))))
        return z


def encode(blocks: Iterable[nn.Module], x: torch.Tensor, tokens: Tokens, *, is_causal: bool) -> torch.Tensor:
    """Return what transformer blocks make of one token of each sample, float32, shape (b, dim), in the batch's order.

    This is the last token if is_causal, and otherwise the first one. The last block computes these tokens only.

    Args:
        blocks: At least one SelfAttention.
        x: float32, shape (number of tokens, dim).
        tokens: Which token belongs to which sample.
        is_causal: As in SelfAttention.
    """
    *earlier, last = blocks
    for block in earlier:
        x = block(x, tokens, is_causal=is_causal)
    x = last(x, tokens, is_causal=is_causal, queries=tokens.last if is_causal else tokens.first)
    return tokens.of_batch(x)


def softmax_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: TokenGroup, *, is_causal: bool
) -> torch.Tensor:
    """Return softmax(query key^T / sqrt(d)) value.

    Args:
        query: Shape (k, heads, c, d): of all tokens, or of the last one of each sample.
        key: Shape (k, heads, n, d).
        value: Shape (k, heads, n, d).
        group: The samples.
        is_causal: Whether a token attends to no newer ones.
    """
    is_causal = is_causal and query.shape[2] > 1
    # Padding comes last, so causal attention needs no other mask.
    mask = None if is_causal or group.mask is None else group.mask[:, None, None, :]
    if is_in_host_memory(query):
        return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)

    # On a GPU, the kernels of torch keep all scores or add up gradients in an order that is not fixed.
    return attention_in_pieces(query, key, value, mask, is_causal=is_causal)


def attention_in_pieces(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, is_causal: bool
) -> torch.Tensor:
    """Return the same from plain operations.

    Args:
        query: Shape (k, heads, c, d).
        key: Shape (k, heads, n, d).
        value: Shape (k, heads, n, d).
        mask: Which keys count, bool, shape (k, 1, 1, n); None: all, or those that is_causal allows.
        is_causal: Whether a token attends to no newer ones.
    """

    def piece(first: int, part: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        num_keys = first + part.shape[2] if is_causal else key.shape[2]
        allowed = causal(part.shape[2], num_keys, part.device) if is_causal else mask
        scores = part @ key[:, :, :num_keys].transpose(2, 3) / part.shape[-1] ** 0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        mixed: torch.Tensor = scores.softmax(3) @ value[:, :, :num_keys]
        return mixed

    return in_pieces(piece, key.shape[2], query, key, value)
