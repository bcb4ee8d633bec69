"""The stream of batches of a job: the training batches, epoch by epoch, and the batches of each evaluation between."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset, Split
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.shuffle import BlockShuffle, shuffled_batches
from bagpipe_hpc.data.time_windows import TimeWindow
from bagpipe_hpc.oracle.evaluation import EvaluatedWindow, Timetable
from bagpipe_hpc.runtime.data_position import TrainingRange


def timetable_of(
    config: Config, dataset: Dataset, training_range: TrainingRange, windows: Sequence[TimeWindow] = ()
) -> Timetable:
    """Return when a job evaluates.

    Args:
        windows: The windows that the job trains on, one after the other; empty if it does not train in time order.
    """
    batch_size = config.evaluation.batch_size or config.training.batch_size
    split = dataset.split(config.evaluation.split)
    num_batches = split.num_batches(batch_size) if config.evaluation.enabled else 0
    every = config.evaluation.every
    evaluated = {}
    for window in windows if config.evaluation.enabled else ():
        num_trained = training_range.num_trained_at(window.first)
        if num_trained is not None and num_trained < training_range.end:
            evaluated[num_trained] = EvaluatedWindow(window, -(-window.num_samples // batch_size))
    start, end = training_range.start.num_trained, training_range.end
    return Timetable(start, end, num_batches, every, split.num_samples, evaluated)


def count_batches(training_range: TrainingRange, timetable: Timetable) -> int:
    """Return the number of batches of this start: training batches and batches of evaluations."""
    return training_range.num_iterations + timetable.num_batches_of_all


def sample_batches(
    config: Config, dataset: Dataset, training_range: TrainingRange, timetable: Timetable
) -> Iterator[Batch]:
    """Yield all training batches, epoch by epoch. Where an evaluation is due, yield its batches, which are read-only.

    Raises:
        DatasetError: a batch cannot be read.
    Communication: none.
    """
    start = training_range.start
    needs_times = any(rules.lifetime_in_time is not None for rules in dataset.schema.dynamic_tables.values())
    train = replace(dataset.train, with_times=needs_times)
    epochs = (_epoch(config, train, epoch, training_range) for epoch in range(start.epoch, training_range.epochs))
    batches = itertools.chain.from_iterable(epochs)
    lengths = max_lengths(config, dataset.schema)
    for num_trained in range(start.num_trained, training_range.end + 1):
        if timetable.is_due(num_trained):
            evaluated = _evaluation(config, dataset, timetable.windows.get(num_trained))
            yield from (newest_elements(batch, lengths) for batch in evaluated)
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


def _evaluation(config: Config, dataset: Dataset, evaluated: EvaluatedWindow | None) -> Iterator[Batch]:
    batch_size = config.evaluation.batch_size or config.training.batch_size
    if evaluated is None:
        batches = dataset.split(config.evaluation.split).batches(batch_size)
    else:
        window = evaluated.window
        batches = dataset.train.batches(batch_size, start_sample=window.first, stop_sample=window.last)
    for batch in batches:
        yield replace(batch, read_only=True)


def _epoch(config: Config, train: Split, epoch: int, training_range: TrainingRange) -> Iterator[Batch]:
    """Return the batches of an epoch that are left."""
    training = config.training
    if training.shuffle_block is not None:
        shuffle = BlockShuffle(training.shuffle_block, training.seed)
        return shuffled_batches(train, shuffle, epoch, training.batch_size, training_range.stretches(epoch)[0][0])
    return itertools.chain.from_iterable(
        train.batches(training.batch_size, start_sample=start, stop_sample=stop)
        for start, stop in training_range.stretches(epoch)
    )
