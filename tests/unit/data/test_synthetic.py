from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.synthetic import PROFILES, SyntheticClicks, synthesize
from bagpipe_hpc.errors import ConfigError
from tests.unit.conftest import AssertEqual


def auc(scores: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """Area under the ROC curve by ranks; ties do not occur."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    positives = labels == 1
    num_positives = positives.sum()
    wins = ranks[positives].sum() - num_positives * (num_positives + 1) / 2
    return float(wins / (num_positives * (len(labels) - num_positives)))


@pytest.mark.parametrize(
    ("profile", "num_dense", "num_tables", "num_rows"),
    [("criteo-kaggle", 13, 26, 33_762_577), ("criteo-terabyte", 13, 26, 882_774_559), ("avazu", 0, 22, 9_449_445)],
)
def test_profiles(profile: str, num_dense: int, num_tables: int, num_rows: int) -> None:
    tables = PROFILES[profile].tables
    assert (len(PROFILES[profile].dense), len(tables), sum(tables.values())) == (num_dense, num_tables, num_rows)


def test_scale_rounds_up() -> None:
    schema = SyntheticClicks("criteo-kaggle", scale=0.01).schema
    assert schema.num_embeddings[:3] == (15, 6, 101_313)
    assert schema.num_embeddings[8] == 1


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("skew", [0, 0.7, 1, 1.05, 2])
def test_ids_are_in_range_and_labels_can_be_learned(profile: str, skew: float) -> None:
    clicks = SyntheticClicks(profile, scale=0.01, skew=skew, seed=5)
    batch, probabilities = clicks.block(0, 20_000)
    assert batch.ids.min() >= 0
    assert (batch.ids < np.array(clicks.schema.num_embeddings)).all()
    assert np.isfinite(batch.dense).all()
    assert batch.labels.mean() == pytest.approx(0.25, abs=0.02)
    assert auc(probabilities, batch.labels) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("skew", [0.8, 1.0, 1.2])
def test_frequencies_follow_zipf(skew: float) -> None:
    clicks = SyntheticClicks("criteo-kaggle", skew=skew)
    counts = np.sort(np.bincount(clicks.block(0, 200_000)[0].ids[:, 1]))[::-1]  # C2: 583 rows
    weights = np.arange(1, 584) ** -skew
    expected = 200_000 * weights / weights.sum()
    np.testing.assert_allclose(counts[:5], expected[:5], rtol=0.1)
    np.testing.assert_allclose(counts[:100].sum(), expected[:100].sum(), rtol=0.02)


def test_hot_rows_are_scattered() -> None:
    ids = SyntheticClicks("criteo-kaggle").block(0, 50_000)[0].ids[:, 2]
    values, counts = np.unique(ids, return_counts=True)
    hottest = np.sort(values[np.argsort(counts)[-100:]])
    assert np.diff(hottest).min() > 1
    assert hottest[0] < 10_131_227 * 0.1
    assert hottest[-1] > 10_131_227 * 0.9


def test_every_row_can_be_reached() -> None:
    clicks = SyntheticClicks("criteo-kaggle", scale=0.01, skew=0)
    ids = clicks.block(0, 5_000)[0].ids
    for column, num_rows in zip(ids.T, clicks.schema.num_embeddings, strict=True):
        if num_rows < 100:
            assert len(np.unique(column)) == num_rows


def test_a_sample_depends_on_seed_and_number_only(assert_equal: AssertEqual) -> None:
    clicks = SyntheticClicks("criteo-kaggle", scale=0.001, seed=3)
    whole = clicks.block(0, 100)[0]
    again = SyntheticClicks("criteo-kaggle", scale=0.001, seed=3)
    assert_equal(Batch.concatenate([again.block(0, 33)[0], again.block(33, 67)[0]]), whole)
    other = SyntheticClicks("criteo-kaggle", scale=0.001, seed=4).block(0, 100)[0]
    assert (other.ids[:, 2] != whole.ids[:, 2]).mean() > 0.9


def test_synthesize(tmp_path: Path, assert_equal: AssertEqual) -> None:
    calls = []
    dataset = synthesize(
        tmp_path / "clicks", 1000, "avazu", scale=0.001, seed=7, progress=lambda *call: calls.append(call)
    )
    assert (dataset.train.num_samples, dataset.validation.num_samples) == (900, 100)
    clicks = SyntheticClicks("avazu", scale=0.001, seed=7)
    assert dataset.schema == clicks.schema
    assert_equal(next(dataset.validation.batches(1000)), clicks.block(900, 100)[0])
    assert dataset.origin["profile"] == "avazu"
    assert calls == [("preparing", 0, 0), ("writing shards", 0, 1000), ("writing shards", 1000, 1000)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "netflix"}, "profile is 'netflix', but must be one of criteo-kaggle, criteo-terabyte, avazu"),
        ({"scale": 0}, "scale is 0, but must be above 0"),
        ({"scale": 1000}, "must be above 0 and at most 296.1 for criteo-kaggle"),
        ({"scale": math.nan}, "scale is nan"),
        ({"skew": -1}, "skew is -1, but must be from 0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_samples": 0}, "number of samples is 0"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "clicks", **{"num_samples": 10, "profile": "criteo-kaggle", **settings})


def test_bags() -> None:
    """One more table, ragged; everything else but the labels is as without."""
    plain, bagged = SyntheticClicks("avazu", scale=0.01), SyntheticClicks("avazu", scale=0.01, bag_size=3)
    batch, _ = bagged.block(100, 2_000)
    assert bagged.schema.tables[:-1] == plain.schema.tables
    np.testing.assert_array_equal(batch.ids, plain.block(100, 2_000)[0].ids)
    lengths = np.diff(batch.bags["bags"].offsets)
    assert (lengths.min(), lengths.max()) == (0, 6)
    assert abs(lengths.mean() - 3) < 0.2
    assert 0 <= batch.bags["bags"].ids.min() < batch.bags["bags"].ids.max() < 1_000
    later = bagged.block(1_100, 1_000)[0].bags["bags"]
    piece = batch.bags["bags"].slice(1_000, 2_000)
    assert (later.offsets.tolist(), later.ids.tolist()) == (piece.offsets.tolist(), piece.ids.tolist())
    with pytest.raises(ConfigError, match="the size of a bag is -1"):
        SyntheticClicks("avazu", bag_size=-1)


def test_drift(tmp_path: Path) -> None:
    """Ids of large tables live for five days; those of small ones stay. Any part can be drawn alone."""
    clicks = SyntheticClicks("avazu", scale=0.001, skew=0, drift=1_000)
    large = list(clicks.schema.dynamic_tables)
    assert large == ["device_id", "device_ip"]
    assert clicks.schema.dynamic_tables["device_id"].capacity == 2_687
    batch, probabilities = clicks.block(0, 30_000)
    assert batch.times is not None
    assert batch.times[:2].tolist() == [0, 86]
    assert batch.times[-1] == 86_400 * 29_999 // 1_000
    assert auc(probabilities, batch.labels) == pytest.approx(0.8, abs=0.02)
    column = [table.name for table in clicks.schema.tables].index("device_id")
    ids = batch.ids[:, column]
    distinct, first = np.unique(ids, return_index=True)
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    assert (last - first).max() < 5_000
    assert len(distinct) > 3 * 2_687
    assert len(np.intersect1d(ids[:10_000], ids[20_000:])) == 0
    small = batch.ids[:, column - 1]
    assert len(np.intersect1d(small[:10_000], small[20_000:])) > 0
    part, _ = clicks.block(12_345, 100)
    assert np.array_equal(part.ids, batch.ids[12_345:12_445])
    assert np.array_equal(part.times, batch.times[12_345:12_445])  # type: ignore[arg-type]
    dataset = synthesize(tmp_path / "data", 100, "avazu", scale=0.001, drift=10)
    assert dataset.origin["drift"] == 10
    with pytest.raises(ConfigError, match="--drift is 5, but the ids of --profile histories do not drift"):
        synthesize(tmp_path / "other", 100, "histories", history_length=3, drift=5)
    with pytest.raises(ConfigError, match="--drift is -1, but the samples of a day must be at least 1"):
        SyntheticClicks("avazu", drift=-1)
