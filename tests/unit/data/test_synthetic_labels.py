"""Several labels, weights and groups of synthetic histories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.data.synthetic_histories import SyntheticHistories
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.oracle.ranking import auc

PLAIN, LABELLED = (
    SyntheticHistories(scale=0.01, skew=1.05, seed=3, history_length=12, has_labels=has_labels)
    for has_labels in (False, True)
)


def test_all_else_is_the_same() -> None:
    plain, probabilities = PLAIN.block(500, 400)
    batch, same = LABELLED.block(500, 400)
    assert np.array_equal(batch.labels[:, 0], plain.labels)
    assert np.array_equal(batch.ids, plain.ids)
    assert np.array_equal(batch.bags["clicked"].ids, plain.bags["clicked"].ids)
    assert np.array_equal(probabilities, same)


def test_samples_do_not_depend_on_blocks() -> None:
    whole, _ = LABELLED.block(1_000, 300)
    pieces = Batch.concatenate([LABELLED.block(start, 100)[0] for start in (1_000, 1_100, 1_200)])
    assert np.array_equal(pieces.labels, whole.labels, equal_nan=True)
    assert whole.sample_weights is not None
    assert pieces.sample_weights is not None
    assert np.array_equal(pieces.sample_weights, whole.sample_weights)


def test_what_samples_have() -> None:
    batch, probabilities = LABELLED.block(0, 20_000)
    click, buy, stars = batch.labels.T
    assert np.array_equal(np.isnan(buy), click == 0)
    clicked = click == 1
    assert set(buy[clicked]) == {0, 1}
    assert (stars.min(), stars.max()) == (1, 5)
    assert auc(probabilities[clicked], np.ascontiguousarray(buy[clicked])) > 0.6
    assert np.corrcoef(probabilities, stars)[0, 1] > 0.5
    assert batch.sample_weights is not None
    assert batch.groups is not None
    weights = batch.sample_weights
    assert 0.03 < (weights == 0).mean() < 0.07
    assert 0.5 <= weights[weights > 0].min() < weights.max() <= 1.5
    assert np.array_equal(batch.groups, batch.ids[:, 0])


def test_a_data_set(tmp_path: Path) -> None:
    dataset = synthesize(tmp_path / "data", 200, "histories", scale=0.001, history_length=5, labels=True)
    schema, batch = dataset.schema, dataset.train.read(0, 180)
    assert [str(label) for label in schema.labels] == ["click: binary", "buy: binary, may be missing", "stars: real"]
    assert (schema.weighted, schema.group, dataset.origin["labels"]) == (True, "user", True)
    assert batch.labels.shape == (180, 3)
    with pytest.raises(ConfigError, match="--labels is for --profile histories, but the profile is avazu; remove it"):
        synthesize(tmp_path / "other", 10, "avazu", labels=True)
