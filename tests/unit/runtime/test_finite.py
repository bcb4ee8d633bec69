"""What is not finite is found, and named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bagpipe_hpc.config import Config, load_config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import DivergedError
from bagpipe_hpc.runtime.finite import (
    FiniteRows,
    require_finite_loss,
    require_finite_parameters,
    require_finite_predictions,
)

SCHEMA = Schema(
    tables=(TableSchema(name="user", num_embeddings=5), TableSchema(name="site", num_embeddings=9)), dense=()
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_losses_parameters_and_predictions(value: float) -> None:
    with pytest.raises(DivergedError, match=rf"the loss is {value} after 7 iterations: training diverged; lower"):
        require_finite_loss(7, value)
    require_finite_loss(7, 1e300)
    good, bad = np.zeros((2, 2), np.float32), np.array([0, value], np.float32)
    with pytest.raises(DivergedError, match="the dense parameter top is not finite after 1,000 iterations"):
        require_finite_parameters(1000, {"bottom": good, "top": bad})
    require_finite_parameters(1000, {"bottom": good})
    found = (
        rf"the prediction for sample 1 of the train split is {value} after 3 iterations \(not finite: 1 of 2 samples"
    )
    with pytest.raises(DivergedError, match=found):
        require_finite_predictions(3, "train", bad)
    require_finite_predictions(3, "train", good[0])
    several = np.zeros((6, 3), np.float32)
    several[4, 1] = several[4, 2] = several[5, 0] = value
    found = (
        r"the prediction for sample 104 of the train split is \[.*\] after 3 iterations \(not finite: 2 of 6 samples"
    )
    with pytest.raises(DivergedError, match=found):
        require_finite_predictions(3, "train", several, first=100)


def test_rows_are_judged_by_what_is_trained_of_them() -> None:
    config: Config = load_config(None, ["model.embedding_dim=2", "row_optimizer.name=adagrad"])
    finite = FiniteRows(config, SCHEMA)
    keys, rows = np.array([2, 8, 9]), np.zeros((3, 4), np.float32)
    rows[1, 3] = math.inf  # a sum of squares that overflows stops the row, and harms nothing
    finite.require(4, keys, rows)
    rows[1:, 1] = math.nan
    with pytest.raises(DivergedError, match="row 3 of table 'site' is not finite after 4 iterations"):
        finite.require(4, keys, rows)
