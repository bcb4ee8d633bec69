from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.inspect import inspect_dataset
from bagpipe_hpc.errors import DatasetError
from tests.unit.conftest import WriteDataset


@pytest.fixture
def dataset(tmp_path: Path, write_dataset: WriteDataset) -> Dataset:
    """200 + 2 samples: user is 0 150 times, then every row once; item is 5. In sample 0 genres 1, 1, 2, seen 5, 0."""
    users = np.array([*[0] * 150, *range(50)])
    ids = np.stack([users, np.full(200, 5)], axis=1)
    genres = Bags(np.array([0, *[3] * 200]), np.array([1, 1, 2]))
    labels = (np.arange(200) % 4 == 0).astype(np.float32)
    seen = Bags(np.array([0, *[2] * 200]), np.array([5, 0]), np.ones(2, np.float32))
    train = Batch(labels, np.zeros((200, 2), np.float32), ids, {"genres": genres, "seen": seen})
    return write_dataset(tmp_path / "clicks", [train], [train.slice(0, 2)], samples_per_shard=150, compression="gzip")


def test_report(dataset: Dataset) -> None:
    report = inspect_dataset(dataset)
    user, genres, item, seen = report.tables
    assert (user.num_embeddings, user.num_distinct, user.num_accesses) == (50, 50, 202)
    assert user.hot_share == pytest.approx(153 / 202)
    assert (genres.num_embeddings, genres.num_distinct, genres.num_accesses) == (7, 2, 6)
    assert genres.hot_share == pytest.approx(4 / 6)
    assert (item.num_embeddings, item.num_distinct, item.hot_share) == (9, 1, 1.0)
    assert (seen.num_embeddings, seen.num_distinct, seen.num_accesses) == (9, 2, 4)
    assert (report.all_tables.num_embeddings, report.all_tables.num_distinct) == (66, 54)  # seen has no rows of its own
    assert report.all_tables.hot_share == pytest.approx(204 / (202 + 6 + 202 + 4))
    train, validation = report.splits
    assert (train.num_samples, train.num_read, train.label_means, len(train.shard_bytes)) == (200, 200, (0.25,), 2)
    assert (validation.num_samples, validation.label_means) == (2, (0.5,))
    assert (report.chunk_rows, report.compression) == (8192, "gzip")
    assert train.shard_bytes[0] == (dataset.path / "train/shard-00000.h5").stat().st_size


def test_limit(dataset: Dataset) -> None:
    report = inspect_dataset(dataset, max_samples=10)
    assert [split.num_read for split in report.splits] == [10, 2]
    assert report.tables[0].num_accesses == 12
    nothing = inspect_dataset(dataset, max_samples=0)
    assert nothing.tables[0].num_accesses == 0
    assert math.isnan(nothing.splits[0].label_means[0])


def test_bad_samples_are_found(dataset: Dataset) -> None:
    with h5py.File(dataset.path / "train/shard-00001.h5", "r+") as file:
        file["dense"][49, 1] = np.nan
    with pytest.raises(DatasetError, match=r"shard-00001\.h5: sample 49: dense feature 'price' is nan"):
        inspect_dataset(dataset)
