"""A small real data set for whole jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.dataset import DatasetWriter
from bagpipe_hpc.data.schema import Schema, TableSchema

NUM_SAMPLES = 1_000
NUM_EMBEDDINGS = (7, 400, 3, 50_000, 90)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_dataset`."""
    return make_dataset(tmp_path_factory.mktemp("data") / "small")


def make_dataset(path: Path, num_dense: int = 3, times: NDArray[np.int64] | None = None) -> Path:
    """Skewed ids over tables of very different sizes, dense features, validation split; the last batch is short.

    Args:
        times: The time of each sample of a split, shape (NUM_SAMPLES,).
    """
    tables = tuple(TableSchema(name=f"t{index}", num_embeddings=size) for index, size in enumerate(NUM_EMBEDDINGS))
    schema = Schema(dense=tuple(f"d{index}" for index in range(num_dense)), tables=tables)
    schema = schema.model_copy(update={"time": None if times is None else "hour"})
    random = np.random.default_rng(1)
    with DatasetWriter(path, schema, samples_per_shard=300) as writer:
        for split in ("train", "validation"):
            writer.append(split, replace(_batch(random, NUM_SAMPLES, num_dense), times=times))
    return path


def _batch(random: np.random.Generator, size: int, num_dense: int) -> Batch:
    ids = np.stack([(random.random(size) ** 4 * n).astype(np.int64) for n in NUM_EMBEDDINGS], axis=1)
    dense = random.normal(size=(size, num_dense)).astype(np.float32)
    labels = ((ids[:, 1] % 2 + dense[:, 0] + random.normal(size=size)) > 1).astype(np.float32)
    return Batch(labels=labels, dense=dense, ids=ids)
