"""Checks of every sample of a shard: row ids within their table, finite numbers, valid ragged offsets.

Checks are on the oracle's critical path, so each is one vectorised pass. Only if something is wrong does a slow search
find what to name in the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags, Float32Array
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.schema import LabelSchema, Schema, TableSchema
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.sharding import Int64Array

WEIGHTS = 1e-12, 1e12  # of samples that count: sums of losses stay finite
TIMES_END = 10**18  # of samples: differences of two of them fit into int64
_EXPONENT = np.uint32(0x7F800000)  # all bits set: infinite or not a number
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits but the sign
_ONE = np.uint32(0x3F800000)


@compiled
def _all_within(ids: NDArray[Any], num_embeddings: Int64Array) -> bool:
    """Return whether row ids, shape (num_samples, num_tables), are all in range; -1: any id is."""
    inside = True
    for sample in range(ids.shape[0]):
        for table in range(ids.shape[1]):
            rows = num_embeddings[table]
            inside &= ((ids[sample, table] >= 0) & (ids[sample, table] < rows)) | (rows < 0)
    return inside


@compiled
def _all_finite(bits: NDArray[np.uint32]) -> bool:
    """Return whether all float32 patterns are finite. There is no early exit, so the integer arithmetic vectorises."""
    bad = 0
    for i in range(bits.size):
        bad += (bits[i] & _EXPONENT) == _EXPONENT
    return bad == 0


@compiled
def _all_fit(bits: NDArray[np.uint32], binary: NDArray[np.bool_], optional: NDArray[np.bool_]) -> bool:
    """Return whether all labels are as their kind says.

    Args:
        bits: float32 patterns, shape (num_samples, num_labels).
        binary: Whether a label is 0 or 1, shape (num_labels,); otherwise it is finite.
        optional: Whether it may be nan, shape (num_labels,).
    """
    fit = True
    for sample in range(bits.shape[0]):
        for label in range(bits.shape[1]):
            size = bits[sample, label] & _MAGNITUDE
            sound = (size == 0) | (bits[sample, label] == _ONE) if binary[label] else size < _EXPONENT
            fit &= sound | (optional[label] & (size > _EXPONENT))
    return fit


@dataclass(frozen=True)
class SampleChecks:
    """Checks of consecutive samples of one shard.

    Each method returns its argument, checked.

    Args:
        path: The shard, for messages.
        schema: The schema that the samples must fit.
        cure: What to do about a bad sample, for messages.
    Raises:
        DatasetError: Names shard, sample number in the shard, table or feature, value and allowed range.
    """

    path: Path
    schema: Schema
    cure: str

    @cached_property
    def _num_embeddings(self) -> Int64Array:
        """The rows of the table of each one-hot feature; -1 where any id is allowed."""
        limits = [-1 if table.name in self._dynamic else table.num_embeddings for table in self.schema.one_hot_tables]
        return np.array(limits, dtype=np.int64)

    @cached_property
    def _dynamic(self) -> set[str]:
        """The features whose ids may be any integers."""
        return {table.name for table in self.schema.dynamic_features}

    def ids(self, ids: NDArray[Any], first_sample: int) -> NDArray[Any]:
        """Check one-hot row ids, of any integer dtype, shape (num_samples, num_one_hot), against their tables."""
        if not _all_within(ids, self._num_embeddings):
            is_wrong = ((ids < 0) | (ids >= self._num_embeddings)) & (self._num_embeddings >= 0)
            sample, table = np.argwhere(is_wrong)[0]
            self._refuse_id(self.schema.one_hot_tables[table], int(ids[sample, table]), first_sample + int(sample))
        return ids

    def labels(self, labels: Float32Array, first_sample: int) -> Float32Array:
        """Check labels, float32, shape (num_samples,) or (num_samples, num_labels), against the schema."""
        if not _all_fit(labels.reshape(len(labels), self.schema.num_labels).view(np.uint32), *self._label_kinds):
            for number, (label, values) in enumerate(zip(self.schema.labels, np.atleast_2d(labels.T), strict=True)):
                self._refuse_label(
                    label, values, first_sample, f"label '{label.name}'" if number or labels.ndim > 1 else "label"
                )
        return labels

    @cached_property
    def _label_kinds(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which labels are binary, and which may be missing."""
        labels = self.schema.labels
        return np.array([each.kind == "binary" for each in labels]), np.array([each.optional for each in labels])

    def sample_weights(self, weights: Float32Array, first_sample: int) -> Float32Array:
        """Check that sample weights, float32, shape (num_samples,), are 0 or within WEIGHTS."""
        sound = (weights == 0) | ((weights >= WEIGHTS[0]) & (weights <= WEIGHTS[1]))
        if not sound.all():
            sample = int(np.argmin(sound))
            allowed = f"0 or between {WEIGHTS[0]:g} and {WEIGHTS[1]:g}"
            self._refuse(first_sample + sample, f"weight is {weights[sample]}, but must be {allowed}")
        return weights

    def times(self, times: Int64Array, first_sample: int, before: int | None) -> Int64Array:
        """Check that times, int64, shape (num_samples,), never fall, and have at most 18 digits.

        Args:
            before: The time of the sample before them; None: there is none.
        """
        far = (times >= TIMES_END) | (times <= -TIMES_END)
        if far.any():
            sample = int(np.argmax(far))
            fault = f"{self.schema.time} is {times[sample]}, but must have at most 18 digits"
            self._refuse(first_sample + sample, fault)
        earlier = np.concatenate([times[:1] if before is None else [before], times])[: len(times)]
        if (times < earlier).any():
            sample = int(np.argmax(times < earlier))
            fault = f"{self.schema.time} is {times[sample]} after {earlier[sample]}, but samples must be in time order"
            self._refuse(first_sample + sample, fault)
        return times

    def dense(self, dense: Float32Array, first_sample: int) -> Float32Array:
        """Check that dense features, float32, shape (num_samples, num_dense), are finite."""
        if not _all_finite(dense.reshape(-1).view(np.uint32)):
            sample, feature = np.argwhere(~np.isfinite(dense))[0]
            name, value = self.schema.dense[feature], dense[sample, feature]
            self._refuse(first_sample + int(sample), f"dense feature '{name}' is {value}, but must be finite")
        return dense

    def offsets(self, table: TableSchema, offsets: Int64Array, num_ids: int, first_sample: int) -> Int64Array:
        """Check offsets of a ragged table, int64, shape (num_samples + 1,), into its num_ids row ids."""
        sound = (offsets[:-1] >= 0) & (offsets[:-1] <= offsets[1:]) & (offsets[1:] <= num_ids)
        if not sound.all():
            sample = int(np.argmin(sound))
            start, stop = int(offsets[sample]), int(offsets[sample + 1])
            self._refuse(
                first_sample + sample,
                f"table '{table.name}': offsets {start}, {stop} must rise within [0, {num_ids}]",
            )
        return offsets

    def bags(self, table: TableSchema, bags: Bags, first_sample: int) -> Bags:
        """Check row ids, weights and elements of a ragged table; return row ids as int64 and weights as float32."""
        ids, weights = bags.ids, bags.weights
        is_dynamic = table.name in self._dynamic
        if not is_dynamic and not _all_within(ids.reshape(-1, 1), np.array([table.num_embeddings], dtype=np.int64)):
            position = int(np.argmax((ids < 0) | (ids >= table.num_embeddings)))
            self._refuse_id(table, int(ids[position]), first_sample + _sample_of(position, bags))
        if weights is not None:
            weights = np.ascontiguousarray(weights, np.float32)
            if not _all_finite(weights.view(np.uint32)):
                position = int(np.argmin(np.isfinite(weights)))
                fault = f"table '{table.name}': a weight is {weights[position]}, but must be finite"
                self._refuse(first_sample + _sample_of(position, bags), fault)
        for name, values in bags.elements.items():
            if values.dtype == np.float32 and not _all_finite(np.ascontiguousarray(values).view(np.uint32)):
                position = int(np.argmin(np.isfinite(values)))
                fault = f"sequence '{table.name}': {name} is {values[position]}, but must be finite"
                self._refuse(first_sample + _sample_of(position, bags), fault)
        return Bags(bags.offsets, ids.astype(np.int64, copy=False), weights, bags.elements)

    def lengths(self, bags: Mapping[str, Bags], first_sample: int) -> Mapping[str, Bags]:
        """Check that sequences that go along with others have their lengths."""
        for table in self.schema.sequences:
            if table.along is None:
                continue
            lengths, others = (np.diff(bags[name].offsets) for name in (table.name, table.along))
            if not np.array_equal(lengths, others):
                sample = int(np.argmin(lengths == others))
                self.refuse_length(table, first_sample + sample, int(lengths[sample]), int(others[sample]))
        return bags

    def refuse_length(self, table: TableSchema, sample: int, length: int, other: int) -> NoReturn:
        """Refuse a sequence that is not as long as the one that it goes along with."""
        self._refuse(
            sample,
            f"sequence '{table.name}' has {length} elements, but {other} are needed, because it goes along "
            f"'{table.along}'",
        )

    def _refuse_label(self, label: LabelSchema, values: Float32Array, first_sample: int, name: str) -> None:
        """Refuse the first value that the label must not have, if there is one."""
        sound = (values == 0) | (values == 1) if label.kind == "binary" else np.isfinite(values)
        if label.optional:
            sound |= np.isnan(values)
        if not sound.all():
            sample = int(np.argmin(sound))
            allowed = ("0 or 1" if label.kind == "binary" else "finite") + (
                " or missing (nan)" if label.optional else ""
            )
            self._refuse(first_sample + sample, f"{name} is {values[sample]}, but must be {allowed}")

    def _refuse_id(self, table: TableSchema, row_id: int, sample: int) -> NoReturn:
        self._refuse(sample, f"table '{table.name}': row id {row_id} is outside [0, {table.num_embeddings})")

    def _refuse(self, sample: int, fault: str) -> NoReturn:
        raise DatasetError(f"{self.path}: sample {sample}: {fault}; {self.cure}")


def _sample_of(position: int, bags: Bags) -> int:
    return int(np.searchsorted(bags.offsets, position, side="right")) - 1
