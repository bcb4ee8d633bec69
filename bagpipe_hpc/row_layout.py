"""The columns of a row: `[embedding | first-order weight, if the model has one | optimizer state]`.

If tables have learning rates of their own, the last column of the state holds the number of the row's table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.config import Config


def state_columns(config: Config) -> dict[str, int]:
    """Return the columns of optimizer state by name, in order."""
    dim = config.model.row_dim
    columns: dict[str, int] = {
        "sgd": {},
        "momentum": {"momentum_buffer": dim},
        "adagrad": {"sum": dim},
        "rowwise_adagrad": {"sum": 1},
        "adam": {"exp_avg": dim, "exp_avg_sq": dim},
    }[config.row_optimizer.name]
    return columns | ({"table": 1} if config.optimizes_by_table else {})


def row_width(config: Config) -> int:
    """Return the number of float32 columns of a row: trained columns and optimizer state."""
    return config.model.row_dim + sum(state_columns(config).values())


def initial_tails(config: Config, num_tables: int) -> NDArray[np.float32]:
    """Return the initial columns after the embedding, float32, shape (num_tables, row_width - embedding_columns)."""
    optimizer = config.row_optimizer
    tail = np.zeros(row_width(config) - config.model.embedding_columns, dtype=np.float32)
    if optimizer.name in ("adagrad", "rowwise_adagrad"):
        tail[config.model.row_dim - config.model.embedding_columns :] = optimizer.initial_accumulator_value
    tails = np.tile(tail, (num_tables, 1))
    if config.optimizes_by_table:
        tails[:, -1] = np.arange(num_tables)
    return tails
