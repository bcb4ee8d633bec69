"""Parts that several models are built of; all initial parameters come from a generator, never from global state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def initialised(layer: Layer, generator: torch.Generator) -> Layer:
    """The same layer with normal weights (Glorot) and biases, as in the DLRM reference code."""
    fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
    with torch.no_grad():
        nn.init.normal_(layer.weight, std=(2.0 / (fan_in + fan_out)) ** 0.5, generator=generator)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=(1.0 / len(layer.bias)) ** 0.5, generator=generator)
    return layer


def mlp(sizes: Sequence[int], generator: torch.Generator, last_relu: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them; sum of (inputs + 1) * outputs over the layers parameters."""
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in itertools.pairwise(sizes):
        layers += [initialised(nn.Linear(num_inputs, num_outputs), generator), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


class Fields(nn.Module):
    """Dense features and ids as one list of vectors: a dense feature is a vector of its own times its value.

    Parameters: num_dense * dim.

    Args:
        num_dense: Dense features; may be 0.
        dim: Columns of a vector.
        generator: Source of the initial parameters.
    """

    def __init__(self, num_dense: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(num_dense, dim, generator=generator) / dim)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Fields (b, num_dense + num_tables, dim) from dense (b, num_dense) and embedded (b, num_tables, dim)."""
        return torch.cat([dense.unsqueeze(2) * self.vectors, embedded], dim=1)


class FirstOrder(nn.Module):
    """A linear model of dense features and ids, the ids' weights being the last column of their rows.

    Parameters: num_dense; all weights start as zero.
    """

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_dense))

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Logits (b,) from dense (b, num_dense) and whole rows (b, num_tables, embedding_dim + 1)."""
        return dense @ self.weights + embedded[:, :, -1].sum(1)


class Concatenation(nn.Module):
    """Vectors side by side; no parameters.

    Args:
        num_vectors: How many.
        dim: Columns of each.
        dims: Columns of each that are in use, the first ones; empty: all.
    """

    def __init__(self, num_vectors: int, dim: int, dims: Sequence[int] = ()) -> None:
        super().__init__()
        places = [dim * vector + column for vector, used in enumerate(dims) for column in range(used)]
        self.width = len(places) or num_vectors * dim
        self.places: torch.Tensor | None
        self.register_buffer("places", torch.tensor(places) if places else None, persistent=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(b, width) from vectors (b, num_vectors, dim)."""
        flat = vectors.flatten(1)
        return flat if self.places is None else flat.index_select(1, self.places)


class InnerProducts(nn.Module):
    """Dot products of all pairs of vectors; no parameters.

    Args:
        num_vectors: n, at least 1.
    """

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        # Flat positions of the strict lower triangle: a plain index_select, unlike a 2-D one, is deterministic.
        rows, columns = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        self.pairs: torch.Tensor
        self.register_buffer("pairs", rows * num_vectors + columns, persistent=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Products (b, n * (n - 1) / 2) from vectors (b, n, dim)."""
        return torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
