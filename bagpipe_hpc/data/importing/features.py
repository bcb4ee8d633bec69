"""Conversion of columns to the arrays of a batch: labels, dense features, and values of categories as integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from bagpipe_hpc.batch import Bags, Float32Array
from bagpipe_hpc.data.importing.description import (
    Category,
    CategoryList,
    Label,
    NamedLabel,
    TableDescription,
    position_of,
)
from bagpipe_hpc.data.importing.hashing import hashed_texts, values_of
from bagpipe_hpc.data.importing.sequences import Sequences, column_of
from bagpipe_hpc.data.importing.times import Times
from bagpipe_hpc.sharding import Int64Array


class Features:
    """Readers of the columns of tables. Columns are named by position.

    Args:
        description: What the columns hold.
        header: Names of all columns.
    """

    def __init__(self, description: TableDescription, header: Sequence[str]) -> None:
        self._description = description
        self._header = header
        self._sequences = Sequences(description, header)
        self._times = None if description.time is None else Times(description.time, header)

    def positions_of(self, tables: Sequence[Category | CategoryList]) -> list[int]:
        """Return the columns, by position, that hold the values of some tables; each column once."""
        return sorted({position_of(table.column, self._header) for table in tables})

    def labels(self, rows: pa.Table) -> Float32Array:
        """Return labels that depend only on their own line; zeros if there are no labels.

        Returns:
            float32, shape (num_rows,), or (num_rows, num_labels) if there are several. A missing label is nan.
        """
        given = self._description.labels or (() if self._description.label is None else (self._description.label,))
        columns = [self._label(rows, label) for label in given]
        if not columns:
            num_labels = len(self._description.label_schemas)
            return np.zeros(len(rows) if num_labels == 1 else (len(rows), num_labels), np.float32)
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def _label(self, rows: pa.Table, label: Label | NamedLabel) -> Float32Array:
        values = column_of(rows, label.column, self._header).to_numpy(zero_copy_only=False)
        if label.threshold is not None:
            values = np.where(np.isnan(values), np.nan, values >= label.threshold)
        labels: Float32Array = values.astype(np.float32)
        return labels

    def weights(self, rows: pa.Table) -> Float32Array | None:
        """Return sample weights, float32, shape (num_rows,); None if there are none."""
        weight = self._description.weight
        return None if weight is None else column_of(rows, weight.column, self._header).to_numpy().astype(np.float32)

    def groups(self, rows: pa.Table, lines: Int64Array) -> Int64Array | None:
        """Return the group of each sample, int64, shape (num_rows,); None if there are none.

        It is a hash of the text, or -1 - line if it is missing.

        Args:
            lines: The line of each row, int64, shape (num_rows,).
        """
        group = self._description.group
        if group is None:
            return None
        hashes = hashed_texts(column_of(rows, group.column, self._header))
        return np.where(hashes < 0, -1 - lines, hashes)

    def times(self, rows: pa.Table) -> Int64Array | None:
        """Return the time of each sample, int64, shape (num_rows,); None if there are none."""
        return None if self._times is None else self._times.read(rows)

    def keys_of_runs(self, rows: pa.Table) -> Int64Array:
        """Return the values of the label's column, int64 (num_rows,), for a label with `continues`; -1 if missing."""
        assert self._description.label is not None
        return hashed_texts(column_of(rows, self._description.label.column, self._header))

    def dense(self, rows: pa.Table) -> Float32Array:
        """Return dense features, float32, shape (num_rows, num_dense); missing ones are 0."""
        dense = np.empty((len(rows), len(self._description.dense)), np.float32)
        for index, feature in enumerate(self._description.dense):
            values = column_of(rows, feature.column, self._header).fill_null(0).to_numpy()
            dense[:, index] = np.log1p(values.clip(min=0)) if feature.transform == "log" else values
        return dense

    def values(self, rows: pa.Table, category: Category) -> Int64Array:
        """Return the values of a category as integers, int64, shape (num_rows,); see `hashing.values_of`."""
        return values_of(column_of(rows, category.column, self._header), category.type)

    def value_lists(self, rows: pa.Table, category_list: CategoryList) -> Bags:
        """Return the values of a list per row as integers, without missing ones, with the values of elements."""
        return self._sequences.read(rows, category_list)
