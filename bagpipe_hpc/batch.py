"""Batches of samples, from the shards up to the planner.

A sample has labels, dense features, one row id in each one-hot feature and a *bag* of any number of row ids in each
ragged feature. It may have a weight and a time, and belong to a group, such as a user or a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.sharding import Int64Array

Float32Array = NDArray[np.float32]
IdArray = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """The bags of one ragged feature: sample s has `ids[offsets[s]:offsets[s + 1]]`.

    Args:
        offsets: int64, shape (num_samples + 1,), never falling; the first is 0.
        ids: Row ids within their table, int64, shape (offsets[-1],).
        weights: The weight of each id, float32, shape (offsets[-1],); None: the feature has no weights.
        elements: The values of each id of a sequence by name, float32 or int64, shape (offsets[-1],).
    """

    offsets: Int64Array
    ids: Int64Array
    weights: Float32Array | None = None
    elements: Mapping[str, Float32Array | Int64Array] = field(default_factory=dict)

    def slice(self, start: int, stop: int) -> Bags:
        """Return the bags of samples [start, stop) without a copy of ids and weights."""
        offsets = self.offsets[start : stop + 1]
        return self._with_ids(offsets - offsets[0], slice(offsets[0], offsets[-1]))

    def take(self, samples: NDArray[Any]) -> Bags:
        """Return the bags of some samples.

        Args:
            samples: Of any integer dtype, in any order, shape (n,).
        """
        counts = np.diff(self.offsets)[samples]
        offsets = np.zeros(len(samples) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[samples] - offsets[:-1], counts)
        return self._with_ids(offsets, places)

    @property
    def reals(self) -> list[Float32Array]:
        """The real values of ids: the weights, or the real elements in their order."""
        values = [cast(Float32Array, each) for each in self.elements.values() if each.dtype == np.float32]
        return values if self.weights is None else [self.weights, *values]

    @property
    def integers(self) -> list[Int64Array]:
        """The integer elements in their order."""
        return [cast(Int64Array, each) for each in self.elements.values() if each.dtype == np.int64]

    def newest(self, length: int) -> Bags:
        """Return the last ids of each bag, at most `length` of them."""
        counts = np.minimum(np.diff(self.offsets), length)
        offsets = np.zeros_like(self.offsets)
        np.cumsum(counts, out=offsets[1:])
        if offsets[-1] == self.offsets[-1]:
            return self
        return self._with_ids(offsets, np.arange(offsets[-1]) + np.repeat(self.offsets[1:] - offsets[1:], counts))

    def _with_ids(self, offsets: Int64Array, places: Any) -> Bags:
        """Return the bags of the ids in some places, a slice or positions."""
        return Bags(
            offsets,
            self.ids[places],
            None if self.weights is None else self.weights[places],
            {name: values[places] for name, values in self.elements.items()},
        )

    @staticmethod
    def concatenate(pieces: Sequence[Bags]) -> Bags:
        """Return the bags of all pieces, one piece after the other."""
        counts = np.concatenate([np.diff(piece.offsets) for piece in pieces])
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        weights = [piece.weights for piece in pieces if piece.weights is not None]
        ids = np.concatenate([piece.ids for piece in pieces])
        elements = {name: np.concatenate([piece.elements[name] for piece in pieces]) for name in pieces[0].elements}
        return Bags(offsets, ids, np.concatenate(weights) if weights else None, elements)


@dataclass(frozen=True)
class Births:
    """The rows of dynamic tables that begin anew with a batch, for ids that get them now.

    Args:
        tables: Number of the table with the row, among those with rows of their own, int64, shape (n,).
        rows: Row within its table, int64, shape (n,).
        ids: The id that has the row from now on, int64, shape (n,).
    """

    tables: Int64Array
    rows: Int64Array
    ids: Int64Array


@dataclass(frozen=True)
class Batch:
    """Samples that are trained or evaluated on together; row ids count within their table.

    Args:
        labels: float32, shape (num_samples,), or (num_samples, num_labels) if the schema has several labels. A missing
            label is nan.
        dense: float32, shape (num_samples, num_dense).
        ids: Row ids of the one-hot features, int32 or int64, shape (num_samples, num_one_hot), columns in the order of
            the schema.
        bags: Of each ragged feature, by its name, in the order of the schema.
        read_only: Whether the batch is evaluated on: rows are read, and never updated.
        sample_weights: float32, shape (num_samples,); None: the schema has no weights.
        groups: The group of each sample, int64, shape (num_samples,); None: the schema has no groups.
        times: The time of each sample, int64, shape (num_samples,), never falling; None: the schema has no times, or
            the samples come from a shard, whose times are read apart (`ShardReader.times`).
        births: The rows that begin anew with this batch; None: none.
    """

    labels: Float32Array
    dense: Float32Array
    ids: IdArray
    bags: Mapping[str, Bags] = field(default_factory=dict)
    read_only: bool = False
    sample_weights: Float32Array | None = None
    groups: Int64Array | None = None
    times: Int64Array | None = None
    births: Births | None = None

    @property
    def num_samples(self) -> int:
        """The number of samples."""
        return len(self.labels)

    @property
    def num_ids(self) -> int:
        """The number of row ids of all samples."""
        return self.ids.size + sum(len(bags.ids) for bags in self.bags.values())

    def slice(self, start: int, stop: int) -> Batch:
        """Return samples [start, stop) without a copy, except of the offsets of bags."""
        return self._with_bags(
            lambda column: column[start:stop], {name: bags.slice(start, stop) for name, bags in self.bags.items()}
        )

    def take(self, samples: NDArray[Any]) -> Batch:
        """Return some samples.

        Args:
            samples: Of any integer dtype, in any order, shape (n,).
        """
        taken = self._with_bags(
            lambda column: column[samples], {name: bags.take(samples) for name, bags in self.bags.items()}
        )
        return taken if self.births is None else replace(taken, births=self.births)

    def _with_bags(self, change: Callable[[NDArray[Any]], NDArray[Any]], bags: Mapping[str, Bags]) -> Batch:
        """Return the samples with other bags, and with every other column changed in the same way."""
        return Batch(
            change(self.labels),
            change(self.dense),
            change(self.ids),
            bags,
            self.read_only,
            None if self.sample_weights is None else change(self.sample_weights),
            None if self.groups is None else change(self.groups),
            None if self.times is None else change(self.times),
        )

    @staticmethod
    def concatenate(pieces: Sequence[Batch]) -> Batch:
        """Return the samples of all pieces, one piece after the other. A single piece is returned as it is.

        Args:
            pieces: Of one schema. Either all or none of them are read-only.
        """
        if len(pieces) == 1:
            return pieces[0]
        weights = [piece.sample_weights for piece in pieces if piece.sample_weights is not None]
        groups = [piece.groups for piece in pieces if piece.groups is not None]
        times = [piece.times for piece in pieces if piece.times is not None]
        return Batch(
            np.concatenate([piece.labels for piece in pieces]),
            np.concatenate([piece.dense for piece in pieces]),
            np.concatenate([piece.ids for piece in pieces]),
            {name: Bags.concatenate([piece.bags[name] for piece in pieces]) for name in pieces[0].bags},
            pieces[0].read_only,
            np.concatenate(weights) if weights else None,
            np.concatenate(groups) if groups else None,
            np.concatenate(times) if times else None,
        )
