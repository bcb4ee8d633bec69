"""The ids of dynamic tables that are used often in all training samples, for rules that admit by future uses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.data.dataset import Dataset, Progress, no_progress
from bagpipe_hpc.data.vocabulary import ValueCounter
from bagpipe_hpc.dynamic_rules import MISSING
from bagpipe_hpc.sharding import Int64Array

_BATCH_SAMPLES = 32_768


def frequent_ids(
    dataset: Dataset, max_lengths: Mapping[str, int], progress: Progress = no_progress
) -> dict[str, Int64Array]:
    """Read all training samples, and return which ids are used at least `admit_after` times.

    Args:
        dataset: The data set, with the rules of the job.
        max_lengths: By name of some sequences, how many of the newest elements are used, at most.
    Returns:
        By name of each table that admits by future uses: the ids, ascending, int64, shape (n,).
    Raises:
        DatasetError: A sample or a shard is invalid.
    """
    schema = dataset.schema
    rules = {name: each for name, each in schema.dynamic_tables.items() if each.admit_by == "future_uses"}
    if not rules:
        return {}
    columns = {table.name: column for column, table in enumerate(schema.one_hot_tables)}
    # Counters have no negative values, so those have one of their own.
    counters = {name: (ValueCounter(), ValueCounter()) for name in rules}
    num_read = 0
    for batch in dataset.train.batches(_BATCH_SAMPLES):
        progress("counting ids", num_read, dataset.train.num_samples)
        for table in schema.dynamic_features:
            if (name := table.table_name) in rules:
                length = max_lengths.get(table.name)
                ids = _used(batch.bags[table.name], length) if table.ragged else batch.ids[:, columns[table.name]]
                positive, negative = counters[name]
                positive.add(np.ascontiguousarray(ids[ids >= 0], np.int64))
                negative.add(np.ascontiguousarray(-1 - ids[(ids < 0) & (ids != MISSING)], np.int64))
        num_read += batch.num_samples
    found = {}
    for name, (positive, negative) in counters.items():
        often = positive.frequent(rules[name].admit_after), -1 - negative.frequent(rules[name].admit_after)
        found[name] = np.sort(np.concatenate(often))
    return found


def _used(bags: Bags, max_length: int | None) -> Int64Array:
    return (bags if max_length is None else bags.newest(max_length)).ids
