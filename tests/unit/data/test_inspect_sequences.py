"""Lengths and values of sequences, over several batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.data import inspect
from bagpipe_hpc.data.inspect import inspect_dataset
from bagpipe_hpc.data.inspect_sequences import SequenceCounts
from bagpipe_hpc.data.schema import ElementSchema, TableSchema
from bagpipe_hpc.data.synthetic import synthesize

ELEMENTS = (ElementSchema(name="time", kind="integer"), ElementSchema(name="stars"))
TABLE = TableSchema(name="clicked", num_embeddings=9, ragged=True, sequence=True, elements=ELEMENTS)


@given(st.lists(st.lists(st.integers(0, 6), max_size=20), max_size=3))
def test_any_lengths(blocks: list[list[int]]) -> None:
    counts, random = SequenceCounts(TABLE), np.random.default_rng(0)
    times, stars = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for lengths in blocks:
        offsets = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
        times.append(random.integers(-9, 10, offsets[-1]) * 10**15)
        stars.append(random.random(offsets[-1]).astype(np.float32))
        counts.add(Bags(offsets, np.zeros(offsets[-1], np.int64), elements={"time": times[-1], "stars": stars[-1]}))
    report, lengths = counts.report(), [length for block in blocks for length in block]
    assert (report.num_samples, report.num_empty) == (len(lengths), lengths.count(0))
    assert report.max_length == max(lengths, default=0)
    if lengths:
        assert report.mean_length == pytest.approx(np.mean(lengths))
        assert report.median_length == np.quantile(lengths, 0.5, method="inverted_cdf")
        assert report.long_length == np.quantile(lengths, 0.95, method="inverted_cdf")
    if sum(lengths):
        wanted = [(each.min(), each.max()) for each in (np.concatenate(times[1:]), np.concatenate(stars[1:]))]
        assert report.ranges == tuple((name, *limits) for name, limits in zip(("time", "stars"), wanted, strict=True))


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_BATCH_SEQUENCES", 70)
    dataset = synthesize(tmp_path / "data", 300, "histories", scale=0.001, history_length=5)
    [clicked] = inspect_dataset(dataset).sequences
    lengths = [np.diff(b.bags["clicked"].offsets) for s in (dataset.train, dataset.validation) for b in s.batches(300)]
    assert (clicked.name, clicked.num_samples) == ("clicked", 300)
    assert clicked.num_empty == (np.concatenate(lengths) == 0).sum() > 0
    assert clicked.mean_length == pytest.approx(np.concatenate(lengths).mean())
    assert [name for name, _, _ in clicked.ranges] == ["time", "stars"]
    assert clicked.ranges[1][1:] == (1, 5)
    [nothing] = inspect_dataset(dataset, max_samples=0).sequences
    assert (nothing.num_samples, nothing.max_length, nothing.ranges) == (0, 0, ())
