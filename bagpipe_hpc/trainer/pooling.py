"""Pooling: it makes one vector per sample and feature from the rows of an iteration.

The vector of a one-hot feature is its row. The vector of a ragged feature is pooled from the rows of its bag:

    sum                 the sum of the rows
    mean                the sum of the rows / the number of rows
    sum, with weights   the sum of weight * row
    mean, with weights  the sum of weight * row / the sum of the weights, or the sum itself if the weights sum to zero

The vector of an empty bag is zero. Rows are added in the order of the ids, and so are the gradients of a row. So the
numbers depend on the samples alone. (The gradients of torch.nn.EmbeddingBag on the CPU depend on the row numbers too.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.cache import to_device


class Pooling:
    """Pools the rows of samples of one schema.

    Args:
        schema: The schema of the samples.
        config: Says whether a table pools by sum or by mean, and which columns the tables use.
    """

    def __init__(self, schema: Schema, config: Config) -> None:
        order = schema.features.in_table_order
        self._tables = [schema.tables[feature] for feature in order]
        self._places = [order.index(feature) for feature in range(len(order))]
        self._is_in_order = self._places == sorted(self._places)
        self._means = {name for name, table in config.tables.items() if table.pooling == "mean"}
        self._mask = _used_columns(schema, config)

    def __call__(self, plan: TrainerPlan, rows: torch.Tensor) -> torch.Tensor:
        """Return a vector for each sample and feature.

        Columns that a table does not use are zero and get no gradient.

        Args:
            plan: The plan of the iteration.
            rows: float32, shape (num_rows, row_dim): own rows, then replicas.
        Returns:
            float32, shape (num_samples, num_features, row_dim), on the device of the rows.
        """
        vectors = self._vectors(plan, rows)
        return vectors if self._mask is None else vectors * self._mask.to(rows.device)

    def _vectors(self, plan: TrainerPlan, rows: torch.Tensor) -> torch.Tensor:
        sample_rows = to_device(plan.sample_rows, rows.device)
        if not len(plan.bag_lengths):
            sample_rows = sample_rows.view(len(self._tables), plan.num_samples)
            if not self._is_in_order:
                sample_rows = sample_rows[self._places]
            return functional.embedding(sample_rows.t(), rows)
        bags = list(self._bags(plan, rows.device))
        gathered = functional.embedding(sample_rows, rows).split([feature.num_ids for feature in bags])
        vectors = [feature.pool(part) for feature, part in zip(bags, gathered, strict=True)]
        return torch.stack([vectors[place] for place in self._places], dim=1)

    def _bags(self, plan: TrainerPlan, device: torch.device) -> Iterator[_OneHot | _Bags]:
        """Yield the bags of each feature, in table order."""
        all_lengths = iter(plan.bag_lengths.reshape(-1, plan.num_samples).astype(np.int64))
        all_weights = plan.weights
        for table in self._tables:
            if not table.ragged:
                yield _OneHot(plan.num_samples)
                continue
            lengths, weights = next(all_lengths), None
            num_ids = int(lengths.sum())
            if table.weighted:
                weights, all_weights = to_device(all_weights[:num_ids], device), all_weights[num_ids:]
            yield _Bags(num_ids, to_device(lengths, device), weights, table.name in self._means)


def _used_columns(schema: Schema, config: Config) -> torch.Tensor | None:
    """Return which columns the table of each feature uses; None if every table uses all columns.

    Returns:
        float32, shape (num_features, row_dim): 1 for a column in use, 0 for the others.
    """
    dims = [config.embedding_dim_of(table.shares or table.name) for table in schema.tables]
    dim = config.model.embedding_dim
    if min(dims) == dim:
        return None
    mask = torch.ones(len(dims), config.model.row_dim)
    for feature, used in enumerate(dims):
        mask[feature, used:dim] = 0
    return mask


@dataclass(frozen=True)
class _OneHot:
    num_ids: int

    def pool(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


@dataclass(frozen=True)
class _Bags:
    """The bags of one ragged feature."""

    num_ids: int
    lengths: torch.Tensor  # int64 (num_samples,)
    weights: torch.Tensor | None  # float32 (num_ids,)
    is_mean: bool

    def pool(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a vector per sample, float32 (num_samples, row_dim), from rows, float32 (num_ids, row_dim)."""
        sums = self._sums(rows if self.weights is None else rows * self.weights[:, None])
        if not self.is_mean:
            return sums
        divisors = self.lengths.float() if self.weights is None else self._sums(self.weights)
        return sums / divisors.masked_fill(divisors == 0, 1)[:, None]

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        # index_add would not do: its order of additions is not fixed on a GPU.
        return torch.segment_reduce(values, "sum", lengths=self.lengths, axis=0, unsafe=True)
