"""Conversion of lines to samples. Labels come first, because a label may depend on the next line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.batch import Bags, Batch, Float32Array
from bagpipe_hpc.data.importing.bad_lines import BadLines
from bagpipe_hpc.data.importing.description import CategoryList, TableDescription
from bagpipe_hpc.data.importing.features import Features
from bagpipe_hpc.data.importing.histories import Histories
from bagpipe_hpc.data.importing.inputs import Inputs, LineCheck, Rows
from bagpipe_hpc.data.vocabulary import Encoder
from bagpipe_hpc.sharding import Int64Array


@dataclass(frozen=True)
class SampleReader:
    """Samples of described tables.

    Args:
        encoders: Encoders of the description's tables.
        check: Finds lines that are bad because of earlier ones; None: there are none.
        histories: The histories before the first line that is read; None: there are none.
    """

    inputs: Inputs
    description: TableDescription
    features: Features
    encoders: Sequence[Encoder]
    check: LineCheck | None = None
    histories: Histories | None = None

    def read(self, start: int, stop: int, bad: BadLines) -> Iterator[tuple[Int64Array, Batch]]:
        """Yield the samples of lines [start, stop), in blocks.

        Yields:
            The line of each sample, int64, shape (num_samples,); the samples.
        Raises:
            DatasetError: A file is damaged, or there are too many bad lines.
        """
        label = self.description.label
        if label is not None and label.continues:
            labelled = self._runs(self.inputs.rows(start, self.inputs.num_lines, bad, check=self.check), stop)
        else:
            blocks = self.inputs.rows(start, stop, bad, check=self.check)
            labelled = ((rows, self.features.labels(rows.table)) for rows in blocks)
        for rows, labels in labelled:
            categories = self.description.categorical
            values = {each.feature_name: self.features.values(rows.table, each) for each in categories}
            ids = self._ids(values)
            batch = self._batch(rows, labels, ids)
            if self.histories is None:
                yield rows.lines, batch
            else:
                yield from self.histories.extend(rows, batch, values, ids)

    def _ids(self, values: Mapping[str, Int64Array]) -> dict[str, Int64Array]:
        """Return the row ids of values, by the name of their category."""
        encoders = zip(self.description.categorical, self.encoders, strict=False)
        return {each.feature_name: encoder.encode(values[each.feature_name]) for each, encoder in encoders}

    def _runs(self, blocks: Iterable[Rows], stop: int) -> Iterator[tuple[Rows, Float32Array]]:
        """Yield rows up to a line with labels: 1 if the next row, in whatever block, has the same key."""
        held: Rows | None = None  # the last row, which waits for the next one
        for block in blocks:
            rows = block if held is None else Rows.concatenate([held, block])
            keys = self.features.keys_of_runs(rows.table)
            known = max(0, min(len(keys) - 1, int(np.searchsorted(rows.lines, stop))))
            yield rows.slice(0, known), _continues(keys)[:known]
            held = rows.slice(known, len(keys))
            if len(held.lines) and held.lines[0] >= stop:
                return
        if held is not None:
            yield held, np.zeros(len(held.lines), np.float32)

    def _batch(self, rows: Rows, labels: Float32Array, ids: Mapping[str, Int64Array]) -> Batch:
        bags = {}
        for table, encoder in zip(self.description.tables, self.encoders, strict=True):
            if isinstance(table, CategoryList):
                lists = self.features.value_lists(rows.table, table)
                bags[table.feature_name] = Bags(lists.offsets, encoder.encode(lists.ids), elements=lists.elements)
        return Batch(
            labels,
            self.features.dense(rows.table),
            np.stack(list(ids.values()), axis=1) if ids else np.empty((len(labels), 0), np.int64),
            bags,
            sample_weights=self.features.weights(rows.table),
            groups=self.features.groups(rows.table, rows.lines),
            times=self.features.times(rows.table),
        )


def _continues(keys: Int64Array) -> Float32Array:
    continues: Float32Array = ((keys[:-1] == keys[1:]) & (keys[:-1] >= 0)).astype(np.float32)
    return continues
