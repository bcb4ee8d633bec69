"""Attention in pieces of queries, in memory that does not grow with the square of a length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from bagpipe_hpc.trainer.device.placement import Precision

MAX_SCORES = 1 << 20  # of a piece: an array of 4 MiB
MAX_KEPT = 1 << 17  # scores that are kept for the backward pass

Piece = Callable[..., torch.Tensor]
"""Maps the number of the first query, some queries, shape (k, heads, c, d), and others to (k, heads, c, d)."""


def causal(num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor:
    """Return which keys the last queries attend to: those that are not newer, bool, shape (num_queries, num_keys)."""
    allowed = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return allowed.tril(num_keys - num_queries)


def in_pieces(piece: Piece, num_keys: int, query: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """Attend in pieces of queries, so that memory does not grow with the square of a length.

    A piece has about MAX_SCORES scores. The backward pass computes them again, unless there are few.

    Args:
        piece: Called for some queries at a time, always with all others.
        num_keys: How many keys a query has, at most.
        query: Shape (k, heads, n, d).
        others: What the piece needs besides: all tensors that get gradients are here.
    Returns:
        Shape (k, heads, n, d).
    """
    scores_per_query = query.shape[0] * query.shape[1] * num_keys
    if scores_per_query * query.shape[2] <= MAX_KEPT:
        return piece(0, query, *others)
    num_queries = max(1, MAX_SCORES // scores_per_query)
    parts = enumerate(query.split(num_queries, 2))
    recomputed = cast(Callable[..., torch.Tensor], _Recomputed.apply)
    return torch.cat([recomputed(piece, number * num_queries, part, *others) for number, part in parts], 2)


class _Recomputed(torch.autograd.Function):
    """A piece that keeps nothing but its inputs. (The first call of torch.utils.checkpoint loads 150 MB of modules.)"""

    @staticmethod
    def forward(ctx: Any, piece: Piece, first: int, *tensors: torch.Tensor) -> torch.Tensor:
        """Return what the piece returns."""
        ctx.piece, ctx.first = piece, first
        ctx.precision = Precision(tensors[0])
        ctx.save_for_backward(*tensors)
        return piece(first, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the tensors."""
        needed = ctx.needs_input_grad[2:]
        tensors = [each.detach().requires_grad_(need) for each, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), ctx.precision.again():
            output = ctx.piece(ctx.first, *tensors)
        found = iter(torch.autograd.grad(output, [each for each in tensors if each.requires_grad], gradients[0]))
        return None, None, *(next(found) if need else None for need in needed)
