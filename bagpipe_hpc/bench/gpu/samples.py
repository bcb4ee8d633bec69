"""The samples that `bagpipe bench gpu` trains on: synthetic ones in a directory that is kept for the next time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bagpipe_hpc.bench.gpu.case import PROFILE, GpuCase
from bagpipe_hpc.data.dataset import Dataset, Progress, open_dataset
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.sharding import KeySpace

SAMPLES_PER_READ = 65_536


def default_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the directory for data sets, if the user names none."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "bagpipe_hpc" / "bench-gpu"


def bench_dataset(directory: Path, case: GpuCase, progress: Progress) -> Dataset:
    """Return the data set of a case. It is made if it is not there.

    Raises:
        DatasetError: it cannot be written, or is damaged.
    """
    path = directory / f"{PROFILE}-{case.scale:g}-{case.num_samples}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return synthesize(
            path, case.num_samples, PROFILE, scale=case.scale, validation_fraction=0.0, progress=progress
        )  # fmt: skip
    return open_dataset(path)


def size_on_disk(dataset: Dataset) -> int:
    """Return the bytes of a data set."""
    return sum(file.stat().st_size for file in dataset.path.rglob("*") if file.is_file())


def num_distinct_rows(dataset: Dataset) -> int:
    """Return how many different rows the samples use: a cache of so many rows is never full."""
    keys = KeySpace(dataset.schema.num_embeddings)
    is_used = np.zeros(keys.num_keys, dtype=np.bool_)
    for batch in dataset.train.batches(SAMPLES_PER_READ):
        is_used[batch.ids + keys.table_offsets[: batch.ids.shape[1]]] = True
    return int(is_used.sum())
