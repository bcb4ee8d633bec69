"""From the rows of an iteration to one vector per sample and feature.

A one-hot feature's vector is its row. A ragged feature's is pooled from the rows of its bag: their sum, or their mean;
with weights, the sum of weight times row, the mean being that over the sum of the weights, unless this is zero. Of an
empty bag it is zero. Sums are taken in the order of the ids, and so are a row's gradients, so the
numbers depend on the samples alone. (torch.nn.EmbeddingBag, on the CPU, lets gradients depend on the rows' numbers.)
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
        schema: Of the samples.
        config: Says what becomes of a bag, and which columns tables use.
    """

    def __init__(self, schema: Schema, config: Config) -> None:
        order = schema.features.in_table_order
        self._tables = [schema.tables[feature] for feature in order]
        self._places = [order.index(feature) for feature in range(len(order))]
        self._is_in_order = self._places == sorted(self._places)
        self._means = {name for name, table in config.tables.items() if table.pooling == "mean"}
        self._mask = _used_columns(schema, config)

    def __call__(self, plan: TrainerPlan, rows: torch.Tensor) -> torch.Tensor:
        """Vectors, shape (num_samples, num_features, row_dim), of rows (num_rows, row_dim).

        Columns that a table does not use are zero, and get no gradient.
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
        """Each feature, in table order."""
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
    """1 where a feature's table uses a column, 0 elsewhere, (num_features, row_dim); None where all use all."""
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
    """A ragged feature of some samples."""

    num_ids: int
    lengths: torch.Tensor  # int64 (num_samples,)
    weights: torch.Tensor | None  # float32 (num_ids,)
    is_mean: bool

    def pool(self, rows: torch.Tensor) -> torch.Tensor:
        """A vector per sample, (num_samples, row_dim), of rows (num_ids, row_dim)."""
        sums = self._sums(rows if self.weights is None else rows * self.weights[:, None])
        if not self.is_mean:
            return sums
        divisors = self.lengths.float() if self.weights is None else self._sums(self.weights)
        return sums / divisors.masked_fill(divisors == 0, 1)[:, None]

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        # Not index_add, whose order of additions is not fixed on a GPU.
        return torch.segment_reduce(values, "sum", lengths=self.lengths, axis=0, unsafe=True)
