from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import Dataset, DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema

AssertEqual = Callable[[Batch, Batch], None]


class MakeBatch(Protocol):
    """Makes random samples that fit a schema."""

    def __call__(self, schema: Schema, num_samples: int, seed: int = 0) -> Batch: ...


class WriteDataset(Protocol):
    """Makes a data set of batches; settings are those of `DatasetWriter`."""

    def __call__(
        self, path: Path, train: Sequence[Batch], validation: Sequence[Batch] = (), **settings: Any
    ) -> Dataset: ...


SCHEMA = Schema(
    dense=("age", "price"),
    tables=(
        TableSchema(name="user", num_embeddings=50),
        TableSchema(name="genres", num_embeddings=7, ragged=True),
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="seen", num_embeddings=9, ragged=True, weighted=True, shares="item"),
    ),
)


def _make_batch(schema: Schema, num_samples: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    limits = [table.num_embeddings for table in schema.one_hot_tables]
    bags = {}
    for table in schema.ragged_tables:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, num_samples))]).astype(np.int64)
        weights = rng.random(offsets[-1]).astype(np.float32) if table.weighted else None
        bags[table.name] = Bags(offsets, rng.integers(0, table.num_embeddings, offsets[-1]), weights)
    return Batch(
        labels=rng.integers(0, 2, num_samples).astype(np.float32),
        dense=rng.normal(size=(num_samples, schema.num_dense)).astype(np.float32),
        ids=rng.integers(0, limits, (num_samples, len(limits))),
        bags=bags,
    )


def _assert_equal(actual: Batch, expected: Batch) -> None:
    np.testing.assert_array_equal(actual.ids, expected.ids)  # of the type that is stored: int32 where ids fit
    assert actual.ids.dtype in (np.int32, np.int64)
    _assert_same_array(actual.labels, expected.labels)
    _assert_same_array(actual.dense, expected.dense)
    assert actual.bags.keys() == expected.bags.keys()
    for name, ragged in expected.bags.items():
        _assert_same_array(actual.bags[name].offsets, ragged.offsets)
        _assert_same_array(actual.bags[name].ids, ragged.ids)
        _assert_same_array(actual.bags[name].weights, ragged.weights)


def _assert_same_array(actual: NDArray[Any] | None, expected: NDArray[Any] | None) -> None:
    assert (actual is None) == (expected is None)
    if actual is not None and expected is not None:
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@pytest.fixture(scope="session")
def schema() -> Schema:
    """Dense features, two one-hot tables, one ragged table between them."""
    return SCHEMA


@pytest.fixture(scope="session")
def make_batch() -> MakeBatch:
    """See `MakeBatch`."""
    return _make_batch


@pytest.fixture(scope="session")
def assert_equal() -> AssertEqual:
    """Values, shapes and dtypes of two batches are the same."""
    return _assert_equal


@pytest.fixture(scope="session")
def write_dataset() -> WriteDataset:
    """See `WriteDataset`."""

    def write(path: Path, train: Sequence[Batch], validation: Sequence[Batch] = (), **settings: Any) -> Dataset:
        with DatasetWriter(path, SCHEMA, **settings) as writer:
            for batch in train:
                writer.append("train", batch)
            for batch in validation:
                writer.append("validation", batch)
        return open_dataset(path)

    return write
