"""Windows are cut at the multiples of their width, however the times come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data import time_windows
from bagpipe_hpc.data.dataset import Dataset, DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.data.time_windows import TimeWindow, read_windows, windows_of
from bagpipe_hpc.errors import ConfigError, DatasetError

SCHEMA = Schema(tables=(TableSchema(name="item", num_embeddings=5),), time="hour")


@given(
    times=st.lists(st.integers(-(10**18) + 1, 10**18 - 1) | st.integers(-20, 20), min_size=1, max_size=40),
    width=st.integers(1, 12) | st.integers(1, 10**18 - 1),
    cuts=st.lists(st.integers(1, 39), max_size=3),
)
def test_windows_are_those_of_each_sample(times: list[int], width: int, cuts: list[int]) -> None:
    times.sort()
    pieces = [piece for piece in np.split(np.array(times), sorted(cuts)) if len(piece)]
    found = windows_of(pieces, width)
    assert [window.first for window in found] == [0, *(window.last for window in found[:-1])]
    assert found[-1].last == len(times)
    for window in found:
        assert window.start % width == 0
        assert window.stop == window.start + width
        assert all(window.start <= time < window.stop for time in times[window.first : window.last])
        assert window.num_samples >= 1
    assert len({window.start for window in found}) == len(found)


def test_too_many_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_windows, "MAX_WINDOWS", 3)
    assert len(windows_of([np.arange(6)], 2)) == 3
    with pytest.raises(ConfigError, match=r"training\.time_window is 2, which .* more than 3 windows; give a larger"):
        windows_of([np.arange(7)], 2)


def dataset_of(path: Path, times: list[int]) -> Dataset:
    """Return a data set whose shards have two samples each."""
    with DatasetWriter(path, SCHEMA, samples_per_shard=2) as writer:
        labels, ids = np.zeros(len(times), np.float32), np.zeros((len(times), 1), np.int64)
        writer.append("train", Batch(labels, np.zeros((len(times), 0), np.float32), ids, times=np.array(times)))
    return open_dataset(path)


def test_windows_of_a_data_set(tmp_path: Path) -> None:
    found = read_windows(dataset_of(tmp_path / "data", [-1, 0, 0, 3, 4, 9, 10]).train, 5)
    assert found == [TimeWindow(-5, 0, 0, 1), TimeWindow(0, 5, 1, 5), TimeWindow(5, 10, 5, 6), TimeWindow(10, 15, 6, 7)]


def test_times_that_fall_between_shards(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "data", [1, 2, 1, 2])
    with pytest.raises(DatasetError, match=r"shard-00001\.h5: sample 0: hour is 1 after 2, but samples must be in"):
        read_windows(dataset.train, 5)
