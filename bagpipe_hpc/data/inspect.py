"""The content of a data set: counts, skew of accesses, sizes on disk. Reading it checks every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.dataset import Dataset, Progress, Split, no_progress
from bagpipe_hpc.data.inspect_reuse import AccessCounts, AccessReport, mixed_ids
from bagpipe_hpc.data.inspect_sequences import SequenceCounts, SequenceReport
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.vocabulary import ValueCounter
from bagpipe_hpc.dynamic_rules import MISSING
from bagpipe_hpc.sharding import Int64Array

_BATCH_SAMPLES = 32_768
_BATCH_SEQUENCES = 4_096  # samples may have thousands of elements


@dataclass(frozen=True)
class TableReport:
    """Accesses of one feature to one table, over all samples that were read."""

    name: str
    num_embeddings: int
    num_distinct: int  # different row ids that occur
    num_accesses: int
    hot_share: float  # fraction of the accesses to the most used 1 % (rounded up) of the row ids that occur


@dataclass(frozen=True)
class SplitReport:
    """One split: its entry in dataset.json, its files, and the samples that were read."""

    name: str
    num_samples: int
    num_read: int
    times: tuple[int, int] | None  # of the first and the last sample read; None: there are no times
    label_means: tuple[float, ...]  # of each label, over the samples read that have it; NaN: no sample has it
    shard_bytes: tuple[int, ...]


@dataclass(frozen=True)
class DatasetReport:
    """The whole data set."""

    splits: tuple[SplitReport, ...]
    tables: tuple[TableReport, ...]
    sequences: tuple[SequenceReport, ...]  # those that do not go along with another one, which is as long
    all_tables: TableReport  # all tables together: the hottest 1 % of all rows, whichever feature uses them
    chunk_rows: int  # samples per HDF5 chunk
    compression: str | None
    accesses: AccessReport | None  # of the training samples that were read; None: none were read


def inspect_dataset(
    dataset: Dataset,
    *,
    max_samples: int | None = None,
    progress: Progress = no_progress,
) -> DatasetReport:
    """Read a data set, or the first max_samples of each split, and report. Memory grows only with the distinct ids.

    Raises:
        DatasetError: A sample or a shard is invalid.
    """
    counters = [ValueCounter() for _ in dataset.schema.tables]
    sequences = {table.name: SequenceCounts(table) for table in dataset.schema.sequences if table.along is None}
    both = (dataset.train, dataset.validation)
    accesses = AccessCounts(dataset.schema, _limit(dataset.train, max_samples))
    splits = tuple(
        _read(split, counters, sequences, accesses if split is dataset.train else None, max_samples, progress)
        for split in both
    )
    tables = tuple(
        _report(table.name, table.num_embeddings, _counts(counter))
        for table, counter in zip(dataset.schema.tables, counters, strict=True)
    )
    counts = [_counts(counter) for counter in _by_own_table(dataset.schema, counters)]
    all_tables = _report("all", sum(dataset.schema.num_embeddings), np.concatenate(counts))
    split = dataset.train if dataset.schema.labelled else dataset.validation
    with split.open_shard(split.shards[0]) as reader:
        lengths = tuple(counts.report() for counts in sequences.values())
        found = accesses.report() if splits[0].num_read else None
        return DatasetReport(splits, tables, lengths, all_tables, reader.chunk_rows, reader.compression, found)


def _read(
    split: Split,
    counters: list[ValueCounter],
    sequences: Mapping[str, SequenceCounts],
    accesses: AccessCounts | None,
    max_samples: int | None,
    progress: Progress,
) -> SplitReport:
    limit = _limit(split, max_samples)
    num_read = 0
    batch_samples = _BATCH_SEQUENCES if sequences else _BATCH_SAMPLES
    sums, counts = (np.zeros(split.schema.num_labels) for _ in range(2))
    progress(f"reading {split.name} samples", 0, limit)
    times: tuple[int, int] | None = None
    split = replace(split, with_times=split.schema.time is not None)
    for batch in islice(split.batches(batch_samples), -(-limit // batch_samples)):
        batch = batch.slice(0, min(batch.num_samples, limit - num_read))
        _count(split, batch, counters)
        if accesses is not None:
            accesses.add(batch)
        for name, lengths in sequences.items():
            lengths.add(batch.bags[name])
        if batch.times is not None and batch.num_samples:
            times = (int(batch.times[0]) if times is None else times[0], int(batch.times[-1]))
        num_read += batch.num_samples
        if split.schema.labelled:
            labels = batch.labels.reshape(batch.num_samples, split.schema.num_labels)
            sums += np.nansum(labels, axis=0, dtype=np.float64)
            counts += np.isfinite(labels).sum(axis=0)
        progress(f"reading {split.name} samples", num_read, limit)
    sizes = tuple((split.path / shard.file).stat().st_size for shard in split.shards)
    means = tuple(s / c if c else float("nan") for s, c in zip(sums.tolist(), counts.tolist(), strict=True))
    return SplitReport(split.name, split.num_samples, num_read, times, means, sizes)


def _limit(split: Split, max_samples: int | None) -> int:
    """Return how many samples of a split are read."""
    return split.num_samples if max_samples is None else min(max_samples, split.num_samples)


def _count(split: Split, batch: Batch, counters: list[ValueCounter]) -> None:
    columns = iter(np.ascontiguousarray(batch.ids.T))
    dynamic = {table.name for table in split.schema.dynamic_features}
    for table, counter in zip(split.schema.tables, counters, strict=True):
        ids = batch.bags[table.name].ids if table.ragged else next(columns)
        counter.add(mixed_ids(ids[ids != MISSING].astype(np.int64), 0) if table.name in dynamic else ids)


def _by_own_table(schema: Schema, counters: list[ValueCounter]) -> list[ValueCounter]:
    """Add up the accesses of features that share a table."""
    merged = {table.name: ValueCounter() for table in schema.own_tables}
    for table, counter in zip(schema.tables, counters, strict=True):
        merged[table.table_name].add_counts(*counter.items())
    return list(merged.values())


def _counts(counter: ValueCounter) -> Int64Array:
    return counter.items()[1].astype(np.int64)


def _report(name: str, num_embeddings: int, counts: Int64Array) -> TableReport:
    return TableReport(name, num_embeddings, len(counts), int(counts.sum()), _hot_share(counts))


def _hot_share(counts: NDArray[np.int64]) -> float:
    if not len(counts):
        return 0.0
    num_hot = -(-len(counts) // 100)
    return float(np.partition(counts, len(counts) - num_hot)[-num_hot:].sum() / counts.sum())
