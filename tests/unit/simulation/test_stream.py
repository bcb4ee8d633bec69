"""The stream of a data set: keys of all tables, numbered anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import ConfigError, DatasetError
from bagpipe_hpc.simulation.stream import MAX_IDS, read_stream
from tests.unit.conftest import MakeBatch, WriteDataset

from .streams import stream_from


def test_keys_of_all_tables_are_numbered_anew() -> None:
    stream = stream_from([[5, 12], [5], [19, 12]], (10, 10))
    assert stream.keys.tolist() == [0, 1, 0, 2, 1]
    assert stream.sample_ends.tolist() == [0, 2, 3, 5]
    assert [part.tolist() for part in stream.rows] == [[0, 1, 1], [5, 2, 9]]
    assert (stream.num_keys, stream.num_samples, stream.num_table_rows) == (3, 3, 20)
    assert stream.counts().tolist() == [2, 2, 1]


def test_epochs_repeat_the_samples() -> None:
    stream = stream_from([[5, 12], [5]]).repeated(2)
    assert stream.keys.tolist() == [0, 1, 0, 0, 1, 0]
    assert stream.sample_ends.tolist() == [0, 2, 3, 5, 6]
    with pytest.raises(ConfigError, match="more than 2,147,483,647 ids; lower --samples or --epochs"):
        stream.repeated(MAX_IDS)


def test_a_data_set_with_bags_and_shared_tables(
    schema: Schema, make_batch: MakeBatch, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    batch = make_batch(schema, 40)
    dataset = write_dataset(tmp_path / "data", [batch.slice(0, 25), batch.slice(25, 40)])
    stream = read_stream(dataset)
    places = list(zip(*(part.tolist() for part in stream.rows), strict=True))
    for s in range(40):
        bags = {name: each.ids[each.offsets[s] : each.offsets[s + 1]] for name, each in batch.bags.items()}
        rows = [(0, int(batch.ids[s, 0])), (2, int(batch.ids[s, 1]))]
        rows += [(1, int(i)) for i in bags["genres"]] + [(2, int(i)) for i in bags["seen"]]
        found = stream.keys[stream.sample_ends[s] : stream.sample_ends[s + 1]]
        assert sorted(places[key] for key in found) == sorted(rows)
    first = read_stream(dataset, 7)
    assert first.num_samples == 7
    np.testing.assert_array_equal(np.diff(first.sample_ends), np.diff(stream.sample_ends)[:7])


def test_dynamic_tables_and_samples_without_labels_are_refused(
    schema: Schema, make_batch: MakeBatch, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "data", [make_batch(schema, 4)])
    table = TableSchema(name="user", num_embeddings=6, dynamic=DynamicSchema(capacity=5))
    with pytest.raises(DatasetError, match=r"table user is dynamic.*needs fixed rows"):
        read_stream(replace(dataset, schema=Schema(dense=(), tables=(table,))))
    unlabelled = schema.model_copy(update={"labelled": False})
    with DatasetWriter(tmp_path / "unlabelled", unlabelled) as writer:
        batch = make_batch(schema, 4)
        writer.append("validation", replace(batch, labels=np.zeros(4, np.float32)))
    with pytest.raises(DatasetError, match="no labels, which bagpipe simulate needs"):
        read_stream(open_dataset(tmp_path / "unlabelled"))
