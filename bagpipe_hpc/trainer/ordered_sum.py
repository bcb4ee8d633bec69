"""Sums whose order of additions depends on the number of terms only: not on threads, device, or what else is summed."""

from __future__ import annotations

import torch


def ordered_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, which stays, with length 1: halves are added elementwise until one column is left.

    Args:
        values: (..., n), n >= 1; may be overwritten.
    """
    while (width := values.shape[-1]) > 1:
        half = (width + 1) // 2
        values[..., : width - half] += values[..., half:]
        values = values[..., :half]
    return values
