"""The elements of histories as vectors, which sequence models share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence


def with_companions(each: SequenceInput, sequences: Mapping[str, JaggedSequence]) -> torch.Tensor:
    """Return the row of each element of a history plus those of its companions, float32, shape (n, dim).

    Args:
        each: The history.
        sequences: All sequences by name.
    """
    vectors = sequences[each.name].embedded
    for name in each.along:
        vectors = vectors + sequences[name].embedded
    return vectors


class Elements(nn.Module):
    """The vector of each element of a history: its row, those of its companions, and one for its position, added up.

    Positions count from the newest element, which has position 0. Elements older than the last position share it.

    Parameters: positions * dim.

    Args:
        positions: The number of positions.
        dim: The number of columns of a vector.
        generator: Source of the initial parameters.
    """

    def __init__(self, positions: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(positions, dim, generator=generator) / dim)

    def forward(self, each: SequenceInput, sequences: Mapping[str, JaggedSequence]) -> torch.Tensor:
        """Return the vectors, float32, shape (number of elements, dim).

        Args:
            each: The history.
            sequences: All sequences by name.
        """
        history = sequences[each.name]
        vectors = with_companions(each, sequences)
        ages = history.ages.clamp(max=len(self.positions) - 1)
        return vectors + functional.embedding(ages, self.positions)
