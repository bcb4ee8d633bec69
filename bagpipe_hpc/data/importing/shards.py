"""Shards of an import: fixed ranges of lines. One rank writes each shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.dataset import PartialDataset, ShardEntry, SplitName, shard_file
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.shard import Compression, ShardWriter
from bagpipe_hpc.sharding import Int64Array

PIECE_SAMPLES, PIECE_IDS = 8192, 1 << 20


@dataclass(frozen=True)
class ShardTask:
    """Lines [start, stop), numbered over all files, which become shard `number` of a split."""

    split: SplitName
    number: int
    start: int
    stop: int


def all_tasks(num_train: int, num_lines: int, samples_per_shard: int) -> list[ShardTask]:
    """Return the shards of both splits, in the order of their lines."""
    borders: list[tuple[SplitName, int, int]] = [("train", 0, num_train), ("validation", num_train, num_lines)]
    return [
        ShardTask(split, number, first, min(first + samples_per_shard, stop))
        for split, start, stop in borders
        for number, first in enumerate(range(start, stop, samples_per_shard))
    ]


def write_shards(
    samples: Iterable[tuple[Int64Array, Batch]],
    tasks: Sequence[ShardTask],
    partial: PartialDataset,
    schema: Schema,
    compression: Compression | None,
    finished: Callable[[ShardTask], None],
) -> list[ShardEntry]:
    """Write consecutive shards.

    Args:
        samples: Lines and samples of all tasks, in order.
        finished: Called after every shard.
    Returns:
        The shards with at least one sample.
    Raises:
        DatasetError: A shard cannot be written, or reading samples raises it.
    """
    shards = []
    for task, pieces in groupby(_cut(samples, tasks), key=itemgetter(0)):
        path = partial.directory / shard_file(task.split, task.number)
        with ShardWriter(path, schema, compression) as writer:
            for piece in regrouped(batch for _, batch in pieces):
                writer.append(piece)
        shards.append(partial.finished(task.split, task.number, writer))
        finished(task)
    return shards


def regrouped(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the same samples in pieces that do not depend on how the batches divide them.

    HDF5 places the chunks of a file in the order in which they leave its cache. So a file has the same bytes only if it
    is written in the same pieces. A piece has PIECE_SAMPLES samples, or the first ones with PIECE_IDS row ids in bags.
    """
    held: list[Batch] = []
    num_samples = num_ids = 0
    for batch in batches:
        ends = sum((bags.offsets[1:] for bags in batch.bags.values()), np.zeros(batch.num_samples, np.int64))
        start = before = 0
        while start < batch.num_samples:
            full = 1 + int(np.searchsorted(ends, before + PIECE_IDS - num_ids))
            full = min(full, start + PIECE_SAMPLES - num_samples)
            stop = min(full, batch.num_samples)
            held.append(batch.slice(start, stop))
            num_samples, num_ids = num_samples + stop - start, num_ids + int(ends[stop - 1]) - before
            start, before = stop, int(ends[stop - 1])
            if stop == full:
                yield Batch.concatenate(held)
                held, num_samples, num_ids = [], 0, 0
    if held:
        yield Batch.concatenate(held)


def _cut(samples: Iterable[tuple[Int64Array, Batch]], tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, Batch]]:
    """Yield samples with the task that their lines belong to."""
    remaining = iter(tasks)
    task = next(remaining, None)
    for lines, batch in samples:
        start = 0
        while task and start < len(lines):
            stop = int(np.searchsorted(lines, task.stop))
            if start < stop:
                yield task, batch.slice(start, stop)
            start = stop
            if start < len(lines):
                task = next(remaining, None)
