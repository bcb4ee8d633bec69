"""Parameters of the update kernel; test_kernels.py compares what it makes of them with the optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.device.row_step import NUM_PARAMETERS, row_step_of

TABLES = Schema(tables=tuple(TableSchema(name=name, num_embeddings=50) for name in ("a", "b", "c")))


def parameters(settings: dict[str, Any], num_trained: int = 1, **sections: Any) -> Any:
    row_optimizer = {"learning_rate": 0.1, **settings}
    config = Config.model_validate(
        {"model": {"name": "dcn", "embedding_dim": 4}, "row_optimizer": row_optimizer, **sections}
    )
    table = row_step_of(config, TABLES).parameters(num_trained)
    assert table.dtype == np.float32
    assert table.shape[1] == NUM_PARAMETERS
    return table.tolist()


def rounded(*values: float) -> list[float]:
    padded = [*values, *[0.0] * (NUM_PARAMETERS - len(values))]
    return [float(np.float32(value)) for value in padded]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "sgd"}, [-0.1, 0]),
        ({"name": "sgd", "clip_value": 0.5}, [-0.1, 0.5]),
        ({"name": "momentum", "momentum": 0.7}, [-0.1, 0, 0.7]),
        ({"name": "adagrad"}, [-0.1, 0, 1e-10]),
        ({"name": "rowwise_adagrad", "eps": 1e-5}, [0.1, 0, 1e-5, 4]),
        ({"name": "adam", "betas": [0.5, 0.75]}, [-0.1 * 0.5 / 0.5, 0, 1e-8, 0.5, 0.25]),
    ],
)
def test_all_rows_have_one_set(settings: dict[str, Any], expected: list[float]) -> None:
    assert parameters(settings) == [rounded(*expected)]


def test_each_table_has_its_own() -> None:
    tables = {"b": {"learning_rate": 0.5}, "c": {"embedding_dim": 3}}
    assert parameters({"name": "rowwise_adagrad"}, tables=tables) == [
        rounded(0.1, 0, 1e-8, 4),
        rounded(0.5, 0, 1e-8, 4),
        rounded(0.1, 0, 1e-8, 3),
    ]


def test_the_rate_is_that_of_the_iteration() -> None:
    schedule = {"warm_up_iterations": 4}
    assert parameters({"name": "sgd"}, 2, schedule=schedule) == [rounded(-0.05)]
