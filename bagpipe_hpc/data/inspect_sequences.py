"""The content of sequences: how long they are, and the ranges of the values of their elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.data.schema import TableSchema
from bagpipe_hpc.data.vocabulary import ValueCounter
from bagpipe_hpc.sharding import Int64Array


@dataclass(frozen=True)
class SequenceReport:
    """One sequence, over all samples that were read. Without samples, all lengths are 0."""

    name: str
    num_samples: int
    num_empty: int  # samples without an element
    mean_length: float
    median_length: int  # half of the samples have at most so many elements
    long_length: int  # 95 % of the samples have at most so many elements
    max_length: int
    ranges: tuple[tuple[str, int | float, int | float], ...]  # of each value of elements that occurs: name, least, most


class SequenceCounts:
    """Counts of one sequence. Memory grows with the distinct lengths, not with the samples.

    Args:
        table: The sequence.
    """

    def __init__(self, table: TableSchema) -> None:
        self._table = table
        self._lengths = ValueCounter()
        self._ranges: dict[str, tuple[int | float, int | float]] = {}

    def add(self, bags: Bags) -> None:
        """Add the sequences of further samples."""
        self._lengths.add(np.diff(bags.offsets))
        for name, values in bags.elements.items():
            if len(values):
                least, most = values.min().item(), values.max().item()
                before = self._ranges.get(name, (least, most))
                self._ranges[name] = min(least, before[0]), max(most, before[1])

    def report(self) -> SequenceReport:
        """Return what all sequences have."""
        lengths, counts = _sorted(self._lengths)
        num_samples, num_ids = int(counts.sum()), int((lengths * counts).sum())
        return SequenceReport(
            self._table.name,
            num_samples,
            int(counts[lengths == 0].sum()),
            num_ids / num_samples if num_samples else 0.0,
            _quantile(lengths, counts, 0.5),
            _quantile(lengths, counts, 0.95),
            int(lengths[-1]) if len(lengths) else 0,
            tuple((name, *self._ranges[name]) for e in self._table.elements if (name := e.name) in self._ranges),
        )


def _sorted(counter: ValueCounter) -> tuple[Int64Array, Int64Array]:
    """Return the distinct values, rising, and how often each occurs, int64, shape (num_distinct,)."""
    values, counts = counter.items()
    order = np.argsort(values)
    return values[order], counts[order].astype(np.int64)


def _quantile(values: Int64Array, counts: Int64Array, part: float) -> int:
    """Return the smallest value that is at least as large as this part of all values; 0 if there are none."""
    if not len(values):
        return 0
    return int(values[np.searchsorted(np.cumsum(counts), part * counts.sum())])
