"""The data set is made once, and its rows are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bagpipe_hpc.bench.gpu.case import GpuCase
from bagpipe_hpc.bench.gpu.samples import bench_dataset, default_directory, num_distinct_rows, size_on_disk
from bagpipe_hpc.data.dataset import no_progress


def test_it_is_made_once_and_its_rows_are_counted(tmp_path: Path) -> None:
    case = GpuCase(batch_sizes=(8,), scale=1e-5, window=4)
    phases: list[str] = []
    dataset = bench_dataset(tmp_path / "new", case, lambda phase, done, total: phases.append(phase))
    assert dataset.train.num_samples == case.num_samples
    assert phases
    phases.clear()
    again = bench_dataset(tmp_path / "new", case, lambda phase, done, total: phases.append(phase))
    assert (again.path, phases) == (dataset.path, [])
    ids = np.concatenate([batch.ids for batch in dataset.train.batches(50)])
    assert num_distinct_rows(dataset) == sum(len(np.unique(column)) for column in ids.T)
    assert size_on_disk(dataset) > 0
    other = GpuCase(batch_sizes=(8,), scale=2e-5, window=4)
    assert bench_dataset(tmp_path / "new", other, no_progress).path != dataset.path


def test_the_directory() -> None:
    assert default_directory({"XDG_CACHE_HOME": "/c"}) == Path("/c/bagpipe_hpc/bench-gpu")
    assert default_directory({}).parts[-3:] == (".cache", "bagpipe_hpc", "bench-gpu")
