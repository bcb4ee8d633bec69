"""Shards have the same bytes, however blocks of lines divide their samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import PartialDataset
from bagpipe_hpc.data.importing import shards
from bagpipe_hpc.data.importing.shards import all_tasks, regrouped, write_shards
from bagpipe_hpc.data.schema import Schema, TableSchema

SCHEMA = Schema(
    tables=(TableSchema(name="item", num_embeddings=1000), TableSchema(name="bag", num_embeddings=9, ragged=True))
)


def a_batch(num_samples: int, mean_ids: int) -> Batch:
    random = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 2 * mean_ids + 1, num_samples))])
    bags = {"bag": Bags(offsets, random.integers(0, 9, offsets[-1]))}
    labels, dense = np.zeros(num_samples, np.float32), np.zeros((num_samples, 0), np.float32)
    return Batch(labels, dense, random.integers(0, 1000, (num_samples, 1)), bags)


def pieces(batch: Batch, step: int) -> list[Batch]:
    return [batch.slice(start, min(start + step, batch.num_samples)) for start in range(0, batch.num_samples, step)]


@pytest.mark.parametrize("num_ids", [1, 12, 10_000])
def test_pieces_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch, num_ids: int) -> None:
    monkeypatch.setattr(shards, "PIECE_SAMPLES", 10)
    monkeypatch.setattr(shards, "PIECE_IDS", num_ids)
    batch = a_batch(95, 3)
    found = [[each.num_samples for each in regrouped(pieces(batch, step))] for step in (1, 7, 10, 95)]
    assert found[1:] == found[:-1]
    assert sum(found[0]) == 95
    assert max(found[0]) <= 10
    whole = Batch.concatenate(list(regrouped(pieces(batch, 7))))
    assert np.array_equal(whole.ids, batch.ids)
    assert np.array_equal(whole.bags["bag"].offsets, batch.bags["bag"].offsets)
    assert np.array_equal(whole.bags["bag"].ids, batch.bags["bag"].ids)


def test_a_file_that_is_larger_than_the_cache_of_chunks(tmp_path: Path) -> None:
    batch, content = a_batch(40_000, 100), []
    [task] = all_tasks(40_000, 40_000, 40_000)
    for step in (40_000, 7_777):
        partial = PartialDataset(tmp_path / "data", str(step))
        partial.make()
        samples = [
            (np.arange(start, start + step)[: 40_000 - start], piece)
            for start, piece in zip(range(0, 40_000, step), pieces(batch, step), strict=True)
        ]
        write_shards(samples, [task], partial, SCHEMA, None, lambda _: None)
        content.append((partial.directory / "train/shard-00000.h5").read_bytes())
    assert content[0] == content[1]
