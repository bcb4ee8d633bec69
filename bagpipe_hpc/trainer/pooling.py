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

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.item_features import counts_items, item_features
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.trainer.device.base import Device, PlacedSamples
from bagpipe_hpc.trainer.device.feature_layout import (
    MEAN,
    ONE_HOT,
    SEQUENCE,
    WEIGHTED,
    DeviceLayout,
    FeatureLayout,
    layout_of,
)
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence


class Pooling:
    """Pools the rows of samples of one schema, in operations of torch. `features` says how.

    Args:
        schema: The schema of the samples.
        config: Says whether a table pools by sum or by mean, and which columns the tables use.
        device: The device of samples and rows.
    """

    def __init__(self, schema: Schema, config: Config, device: Device) -> None:
        layout = layout_of(schema, config)
        self.features = DeviceLayout(layout, device.torch_device)
        self._kinds = layout.kinds.tolist()
        self._names, self._elements = layout.names, layout.elements
        item = item_features(config, schema)[0].name if counts_items(config) else None
        self._item = None if item is None else layout.names.index(item)
        # The features with a vector per sample have positions among all vectors in table order.
        pooled = [place for place, kind in enumerate(self._kinds) if kind != SEQUENCE]
        self._places = np.argsort(layout.features[pooled]).tolist()
        self._is_in_order = self._places == sorted(self._places)
        mask = _used_columns(layout)
        self._mask_of_sequence = {
            name: None if mask is None else mask[feature].to(device.torch_device)
            for name, feature, kind in zip(layout.names, layout.features.tolist(), self._kinds, strict=True)
            if kind == SEQUENCE
        }
        if mask is not None:
            mask = mask[sorted(layout.features[pooled].tolist())]
        self._mask = None if mask is None else mask.to(device.torch_device)

    def __call__(self, samples: PlacedSamples, rows: torch.Tensor) -> torch.Tensor:
        """Return a vector for each sample and feature.

        Columns that a table does not use are zero and get no gradient.

        Args:
            samples: The samples.
            rows: float32, shape (num_rows, row_dim): own rows, then replicas. The result is a copy.
        Returns:
            float32, shape (num_samples, num_features, row_dim), on the device of the rows.
        """
        vectors = self._vectors(samples, rows)
        return vectors if self._mask is None else vectors * self._mask

    def _vectors(self, samples: PlacedSamples, rows: torch.Tensor) -> torch.Tensor:
        sample_rows = samples.sample_rows
        if not self._places:
            return rows.new_zeros(len(samples.labels), 0, rows.shape[1])
        if not self.features.layout.has_bags or not len(samples.labels):
            sample_rows = sample_rows.view(len(self._places), len(samples.labels))
            if not self._is_in_order:
                sample_rows = torch.stack([sample_rows[place] for place in self._places])
            return functional.embedding(sample_rows.t(), rows)
        bags = self._bags(samples)
        if self._mask_of_sequence:
            parts = sample_rows.split([bag.num_ids for bag in bags])
            pooled = [(bag, part) for bag, part in zip(bags, parts, strict=True) if not isinstance(bag, _Sequence)]
            bags, sample_rows = [bag for bag, _ in pooled], torch.cat([part for _, part in pooled])
        gathered = functional.embedding(sample_rows, rows).split([feature.num_ids for feature in bags])
        vectors = [bag.pool(part) for bag, part in zip(bags, gathered, strict=True) if not isinstance(bag, _Sequence)]
        return torch.stack([vectors[place] for place in self._places], dim=1)

    def sequences(self, samples: PlacedSamples, rows: torch.Tensor) -> dict[str, JaggedSequence]:
        """Return the rows and values of each sequence that is not pooled, by its name.

        Args:
            samples: The samples.
            rows: float32, shape (num_rows, row_dim): own rows, then replicas. The result has copies.
        """
        if not self._mask_of_sequence:
            return {}
        bags, found = self._bags(samples), {}
        parts = samples.sample_rows.split([bag.num_ids for bag in bags])
        for name, bag, part in zip(self._names, bags, parts, strict=True):
            if isinstance(bag, _Sequence):
                mask, embedded = self._mask_of_sequence[name], functional.embedding(part, rows)
                offsets = functional.pad(bag.lengths.cumsum(0), (1, 0))
                found[name] = JaggedSequence(
                    embedded if mask is None else embedded * mask, offsets, bag.lengths_on_host, bag.elements
                )
        return found

    def items(self, samples: PlacedSamples) -> torch.Tensor | None:
        """Return the position of the row of each sample's item, int32, shape (b,); None if the job counts no items.

        Samples of a trainer have the same position in an iteration if, and only if, they have the same item.
        """
        if self._item is None:
            return None
        begin = sum(bag.num_ids for bag in self._bags(samples)[: self._item])
        return samples.sample_rows[begin : begin + len(samples.labels)]

    def _bags(self, samples: PlacedSamples) -> list[_OneHot | _Bags | _Sequence]:
        """Return the bags of each feature, in table order."""
        bags: list[_OneHot | _Bags | _Sequence] = []
        ragged, reals, integers = 0, _Values(samples.weights), _Values(samples.integers)
        for kind, (real_names, integer_names) in zip(self._kinds, self._elements, strict=True):
            if kind == ONE_HOT:
                bags.append(_OneHot(len(samples.labels)))
                continue
            num_ids, lengths = samples.num_ids[ragged], samples.bag_lengths[ragged]
            weights = reals.take(num_ids) if kind & WEIGHTED else None
            elements = {name: reals.take(num_ids) for name in real_names}
            elements |= {name: integers.take(num_ids) for name in integer_names}
            if kind == SEQUENCE:
                bags.append(_Sequence(num_ids, lengths, samples.lengths_on_host[ragged], elements))
            else:
                bags.append(_Bags(num_ids, lengths, weights, bool(kind & MEAN)))
            ragged += 1
        return bags


def _used_columns(layout: FeatureLayout) -> torch.Tensor | None:
    """Return which columns the table of each feature uses; None if every table uses all columns.

    Returns:
        float32, shape (num_features, row_dim): 1 for a column in use, 0 for the others.
    """
    if not layout.is_masked:
        return None
    mask = torch.ones(len(layout.used_columns), layout.row_dim)
    for feature, used in enumerate(layout.used_columns.tolist()):
        mask[feature, used : layout.embedding_dim] = 0
    return mask


class _Values:
    """Values of ids, which are taken one after the other."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values, self._taken = values, 0

    def take(self, count: int) -> torch.Tensor:
        self._taken += count
        return self._values[self._taken - count : self._taken]


@dataclass(frozen=True)
class _Sequence:
    """The elements of one sequence."""

    num_ids: int
    lengths: torch.Tensor  # int64 (num_samples,)
    lengths_on_host: NDArray[np.int64]  # (num_samples,)
    elements: dict[str, torch.Tensor]  # (num_ids,) each


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
