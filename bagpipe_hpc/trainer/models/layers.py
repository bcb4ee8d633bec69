"""Layers that several models use. All initial parameters come from a generator, never from global state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def initialised(layer: Layer, generator: torch.Generator) -> Layer:
    """Give a layer normally distributed weights (Glorot) and biases, as in the DLRM reference code, and return it."""
    fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
    with torch.no_grad():
        nn.init.normal_(layer.weight, std=(2.0 / (fan_in + fan_out)) ** 0.5, generator=generator)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=(1.0 / len(layer.bias)) ** 0.5, generator=generator)
    return layer


def mlp(sizes: Sequence[int], generator: torch.Generator, last_relu: bool = False) -> nn.Sequential:
    """Return linear layers with ReLU between them. Each layer has (inputs + 1) * outputs parameters.

    Args:
        sizes: The number of columns of the input, and of the output of each layer.
        generator: Source of the initial parameters.
        last_relu: Whether a ReLU follows the last layer too.
    """
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in itertools.pairwise(sizes):
        layers += [initialised(nn.Linear(num_inputs, num_outputs), generator), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


class Fields(nn.Module):
    """Dense features and embeddings as one list of vectors.

    The vector of a dense feature is a vector of parameters times the value of the feature.

    Parameters: num_dense * dim.

    Args:
        num_dense: The number of dense features; may be 0.
        dim: The number of columns of a vector.
        generator: Source of the initial parameters.
    """

    def __init__(self, num_dense: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(num_dense, dim, generator=generator) / dim)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return the vectors of all features.

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, dim).
        Returns:
            float32, shape (b, num_dense + num_tables, dim).
        """
        return torch.cat([dense.unsqueeze(2) * self.vectors, embedded], dim=1)


class FirstOrder(nn.Module):
    """A linear model of dense features and ids. The weight of an id is the last column of its row.

    Parameters: num_dense. All weights start as zero.

    Args:
        num_dense: The number of dense features; may be 0.
    """

    def __init__(self, num_dense: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_dense))

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits (b,) from dense (b, num_dense) and rows (b, num_tables, embedding_dim + 1), all float32."""
        return dense @ self.weights + embedded[:, :, -1].sum(1)


class Concatenation(nn.Module):
    """Vectors side by side in one row. There are no parameters.

    `width` is the number of columns of the result.

    Args:
        num_vectors: The number of vectors.
        dim: The number of columns of each vector.
        dims: How many of the first columns of each vector are in use. Empty: all are in use.
    """

    def __init__(self, num_vectors: int, dim: int, dims: Sequence[int] = ()) -> None:
        super().__init__()
        places = [dim * vector + column for vector, used in enumerate(dims) for column in range(used)]
        self.width = len(places) or num_vectors * dim
        self.places: torch.Tensor | None
        self.register_buffer("places", torch.tensor(places) if places else None, persistent=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the columns in use, float32 (b, width), of vectors, float32 (b, num_vectors, dim)."""
        flat = vectors.flatten(1)
        return flat if self.places is None else flat.index_select(1, self.places)


class InnerProducts(nn.Module):
    """Dot products of all pairs of vectors. There are no parameters.

    Args:
        num_vectors: n, at least 1.
    """

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        # Flat positions of the strict lower triangle: an index_select is deterministic, and indexing in 2-D is not.
        rows, columns = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        self.pairs: torch.Tensor
        self.register_buffer("pairs", rows * num_vectors + columns, persistent=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the products, float32 (b, n * (n - 1) / 2), of vectors, float32 (b, n, dim)."""
        return torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
