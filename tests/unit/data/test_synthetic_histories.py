"""Synthetic histories: the same wherever they are made, and worth learning from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data import synthetic_histories
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.data.synthetic_histories import CLUSTERS, SyntheticHistories
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.oracle.ranking import auc
from tests.unit.conftest import AssertEqual

HISTORIES = SyntheticHistories(scale=0.01, skew=1.05, seed=3, history_length=12)


def test_samples_do_not_depend_on_blocks(assert_equal: AssertEqual) -> None:
    whole, probabilities = HISTORIES.block(1_000, 300)
    pieces = [HISTORIES.block(start, 100) for start in (1_000, 1_100, 1_200)]
    assert_equal(Batch.concatenate([piece for piece, _ in pieces]), whole)
    assert np.array_equal(np.concatenate([each for _, each in pieces]), probabilities)


def test_long_histories_are_drawn_in_small_blocks(monkeypatch: pytest.MonkeyPatch, assert_equal: AssertEqual) -> None:
    assert 2 * 2_000 * SyntheticHistories(scale=1e-4, skew=1, seed=0, history_length=2_000).samples_per_block < 3e6
    monkeypatch.setattr(synthetic_histories, "_BLOCK_ELEMENTS", 12 * 1_000)
    in_small_blocks = SyntheticHistories(scale=0.01, skew=1.05, seed=3, history_length=12)
    assert in_small_blocks.samples_per_block == 1_000
    assert_equal(in_small_blocks.block(0, 100)[0], HISTORIES.block(0, 100)[0])


def test_what_samples_hold() -> None:
    batch, _ = HISTORIES.block(0, 2_000)
    clicked = batch.bags["clicked"]
    lengths = np.diff(clicked.offsets)
    assert (lengths.min(), lengths.max()) == (0, 24)
    assert 11 < lengths.mean() < 13
    assert np.array_equal(batch.bags["action"].offsets, clicked.offsets)
    users, items, _ = HISTORIES.schema.num_embeddings
    assert 0 <= batch.ids[:, 0].min() <= batch.ids[:, 0].max() < users
    assert 0 <= min(batch.ids[:, 1].min(), clicked.ids.min()) <= max(batch.ids[:, 1].max(), clicked.ids.max()) < items
    assert set(np.unique(batch.bags["action"].ids)) == {0, 1, 2, 3}
    assert set(np.unique(clicked.elements["stars"])) == {1, 2, 3, 4, 5}
    within = np.setdiff1d(np.arange(1, len(clicked.ids)), clicked.offsets)
    times = clicked.elements["time"]
    assert (times[within] > times[within - 1]).all()
    assert 0.2 < batch.labels.mean() < 0.3


def test_histories_matter_and_new_elements_most() -> None:
    batch, probabilities = HISTORIES.block(0, 20_000)
    clicked = batch.bags["clicked"]
    samples = np.repeat(np.arange(20_000), np.diff(clicked.offsets))
    matches = clicked.ids % CLUSTERS == batch.ids[samples, 1] % CLUSTERS
    ages = clicked.offsets[1:][samples] - 1 - np.arange(len(samples))

    def mean(weights: np.ndarray) -> np.ndarray:
        sums = np.bincount(samples, weights * matches, 20_000)
        result: np.ndarray = (sums / np.maximum(np.bincount(samples, weights, 20_000), 1e-9)).astype(np.float32)
        return result

    best, by_age, by_mean = (auc(x, batch.labels) for x in (probabilities, mean(0.7**ages), mean(np.ones(len(ages)))))
    assert best > by_age > by_mean + 0.005
    assert by_mean > 0.7


def test_a_data_set(tmp_path: Path) -> None:
    dataset = synthesize(tmp_path / "data", 500, "histories", scale=0.001, history_length=5)
    assert dataset.train.num_samples == 450
    assert dataset.origin["history_length"] == 5


@pytest.mark.parametrize(
    ("profile", "options", "said"),
    [
        ("avazu", {"history_length": 5}, "--history-length is for --profile histories"),
        ("histories", {"history_length": 0}, "the length of a history is 0, but must be from 1 to 10,000"),
        ("histories", {"history_length": 5, "bag_size": 3}, "--bag-size is 3, but --profile histories has no bags"),
        ("histories", {"history_length": 5, "scale": 1e5}, "the scale is 100000.0, but must be above 0"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, profile: str, options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        synthesize(tmp_path / "data", 10, profile, **options)  # type: ignore[arg-type]
