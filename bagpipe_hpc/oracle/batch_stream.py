"""The stream of batches of a job: the training batches, epoch by epoch, and the batches of each evaluation between."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset, Split
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.shuffle import BlockShuffle, shuffled_batches
from bagpipe_hpc.oracle.evaluation import Timetable
from bagpipe_hpc.runtime.data_position import TrainingRange


def timetable_of(config: Config, dataset: Dataset, training_range: TrainingRange) -> Timetable:
    """Return when a job evaluates."""
    batch_size = config.evaluation.batch_size or config.training.batch_size
    split = dataset.split(config.evaluation.split)
    num_batches = split.num_batches(batch_size) if config.evaluation.enabled else 0
    every = config.evaluation.every
    return Timetable(training_range.start.num_trained, training_range.end, num_batches, every, split.num_samples)


def count_batches(training_range: TrainingRange, timetable: Timetable) -> int:
    """Return the number of batches of this start: training batches and batches of evaluations."""
    num_evaluated = timetable.num_evaluations * timetable.num_batches
    return training_range.num_iterations + num_evaluated


def sample_batches(
    config: Config, dataset: Dataset, training_range: TrainingRange, timetable: Timetable
) -> Iterator[Batch]:
    """Yield all training batches, epoch by epoch. Where an evaluation is due, yield its batches, which are read-only.

    Raises:
        DatasetError: a batch cannot be read.
    Communication: none.
    """
    start = training_range.start
    epochs = (
        _epoch(config, dataset.train, epoch, start.sample if epoch == start.epoch else 0)
        for epoch in range(start.epoch, training_range.epochs)
    )
    batches = itertools.chain.from_iterable(epochs)
    lengths = max_lengths(config, dataset.schema)
    for num_trained in range(start.num_trained, training_range.end + 1):
        if timetable.is_due(num_trained):
            yield from (newest_elements(batch, lengths) for batch in _evaluation(config, dataset))
        if num_trained < training_range.end:
            yield newest_elements(next(batches), lengths)


def max_lengths(config: Config, schema: Schema) -> dict[str, int]:
    """Return how many elements of sequences count, by name of the feature; those without a limit are left out."""
    limits = {name: settings.max_length for name, settings in config.tables.items()}
    found = {table.name: limits.get(table.along or table.name) for table in schema.sequences}
    return {name: limit for name, limit in found.items() if limit is not None}


def newest_elements(batch: Batch, lengths: Mapping[str, int]) -> Batch:
    """Return a batch with the newest elements of its sequences.

    Args:
        batch: The batch.
        lengths: The largest number of elements of some sequences, by name.
    """
    if not lengths:
        return batch
    cut = {name: bags.newest(lengths[name]) if name in lengths else bags for name, bags in batch.bags.items()}
    return replace(batch, bags=cut)


def _evaluation(config: Config, dataset: Dataset) -> Iterator[Batch]:
    batch_size = config.evaluation.batch_size or config.training.batch_size
    for batch in dataset.split(config.evaluation.split).batches(batch_size):
        yield replace(batch, read_only=True)


def _epoch(config: Config, train: Split, epoch: int, start_sample: int) -> Iterator[Batch]:
    training = config.training
    if training.shuffle_block is None:
        return train.batches(training.batch_size, start_sample=start_sample)
    shuffle = BlockShuffle(training.shuffle_block, training.seed)
    return shuffled_batches(train, shuffle, epoch, training.batch_size, start_sample)
