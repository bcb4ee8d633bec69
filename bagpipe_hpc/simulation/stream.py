"""The rows that a training job asks for, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bagpipe_hpc.data.dataset import Dataset, Progress, no_progress, require_labels
from bagpipe_hpc.errors import ConfigError, DatasetError
from bagpipe_hpc.lookahead.features import KeysBySample
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array, ends
from bagpipe_hpc.sharding import KeySpace

READ_SAMPLES = 32_768  # that are read at a time
MAX_IDS = 2**31 - 1  # positions in the stream are int32


@dataclass(frozen=True)
class KeyStream:
    """The keys of the samples of a data set, in the order of training.

    Keys that occur are numbered anew, from 0 on, in the order of tables and rows: a design needs no room for the
    others.

    Args:
        keys: int32, shape (num_ids,).
        sample_ends: int64, shape (num_samples + 1,): sample s has keys[sample_ends[s]:sample_ends[s + 1]].
        rows: For each key, its table, int32, shape (num_keys,), and its row id in the table, int64, shape (num_keys,).
        num_table_rows: Number of rows of all tables together, whether they occur or not.
    """

    keys: Int32Array
    sample_ends: Int64Array
    rows: tuple[Int32Array, Int64Array]
    num_table_rows: int

    @property
    def num_keys(self) -> int:
        """Number of rows that occur."""
        return len(self.rows[0])

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.sample_ends) - 1

    def counts(self) -> Int64Array:
        """Return how often each key occurs, int64, shape (num_keys,)."""
        return np.bincount(self.keys, minlength=self.num_keys)

    def repeated(self, epochs: int) -> KeyStream:
        """Return the stream of several passes over the same samples."""
        if epochs == 1:
            return self
        _require_room(len(self.keys) * epochs)
        lengths = np.tile(np.diff(self.sample_ends), epochs)
        return replace(self, keys=np.tile(self.keys, epochs), sample_ends=ends(lengths))


def stream_of(keys: Int64Array, sample_ends: Int64Array, key_space: KeySpace) -> KeyStream:
    """Number the keys of a stream anew.

    Args:
        keys: Keys in the space of all tables, int64, shape (num_ids,).
        sample_ends: As in KeyStream.
        key_space: The space.
    """
    occurring, numbers = np.unique(keys, return_inverse=True)
    tables = (np.searchsorted(key_space.table_offsets, occurring, side="right") - 1).astype(np.int32)
    rows = occurring - key_space.table_offsets[tables]
    return KeyStream(numbers.astype(np.int32), sample_ends, (tables, rows), key_space.num_keys)


def read_stream(dataset: Dataset, max_samples: int | None = None, progress: Progress = no_progress) -> KeyStream:
    """Read the training samples of a data set, or the first of them.

    Args:
        dataset: The data set.
        max_samples: Read at most this many samples; None: all.
        progress: Is called with what happens now, and how much of it is done.
    Raises:
        DatasetError: a sample is invalid, there are no training samples, or a table is dynamic.
        ConfigError: the samples have more ids than a simulation can hold.
    """
    require_labels(dataset, "bagpipe simulate")
    schema = dataset.schema
    if schema.dynamic_tables:
        raise DatasetError(
            f"{dataset.path}: table {next(iter(schema.dynamic_tables))} is dynamic, so its ids get their rows while a "
            "model is trained; `bagpipe simulate` needs fixed rows: import the log without `dynamic`"
        )
    key_space = KeySpace(schema.num_embeddings)
    by_sample = KeysBySample(schema.features, key_space.table_offsets)
    num_samples = min(max_samples or dataset.train.num_samples, dataset.train.num_samples)
    keys, lengths, num_ids = [], [], 0
    for first, stop in pairwise([*range(0, num_samples, READ_SAMPLES), num_samples]):
        progress("reading samples", first, num_samples)
        for batch in dataset.train.batches(stop - first, start_sample=first, stop_sample=stop):
            piece, piece_ends = by_sample.keys(batch.ids, tuple(batch.bags.values()))
            keys.append(piece)
            lengths.append(np.diff(piece_ends))
            num_ids += len(piece)
            _require_room(num_ids)
    progress("numbering rows", 0, 0)
    return stream_of(np.concatenate(keys), ends(np.concatenate(lengths)), key_space)


def _require_room(num_ids: int) -> None:
    if num_ids > MAX_IDS:
        raise ConfigError(f"the stream has more than {MAX_IDS:,} ids; lower --samples or --epochs")
