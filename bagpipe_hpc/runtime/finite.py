"""Whether training has diverged: the loss, dense parameters, rows and predictions must be finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.errors import DivergedError
from bagpipe_hpc.sharding import KeySpace

CURE = "training diverged; lower training.learning_rate, and start again from the beginning or an earlier checkpoint"

Float32Array = NDArray[np.float32]


def require_finite_loss(num_trained: int, loss: float) -> None:
    """Raise DivergedError if the loss of an iteration is not finite.

    Args:
        num_trained: Training iterations up to and including this one.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} after {num_trained:,} iterations: {CURE}")


def require_finite_parameters(num_trained: int, parameters: Mapping[str, Float32Array]) -> None:
    """Raise DivergedError, with the first name, if a dense parameter is not finite after so many iterations."""
    for name, values in parameters.items():
        if not np.isfinite(values).all():
            raise DivergedError(f"the dense parameter {name} is not finite after {num_trained:,} iterations: {CURE}")


class FiniteRows:
    """Finds rows that are not finite in the columns that are trained. Optimizer state may overflow without harm."""

    def __init__(self, config: Config, schema: Schema) -> None:
        self._columns = config.model.row_dim
        self._key_space = KeySpace(schema.num_embeddings)
        self._table_names = [table.name for table in schema.own_tables]

    def require(self, num_trained: int, keys: NDArray[np.int64], rows: Float32Array) -> None:
        """Raise DivergedError, with the first row, if one is not finite after so many iterations.

        Args:
            keys: int64, (n,).
            rows: float32, (n, row_width).
        """
        is_finite = np.isfinite(rows[:, : self._columns]).all(axis=1)
        if not is_finite.all():
            table, row = self._key_space.locate(int(keys[int(np.argmin(is_finite))]))
            raise DivergedError(
                f"row {row:,} of table {self._table_names[table]!r} is not finite after {num_trained:,} iterations: "
                f"{CURE}"
            )


def require_finite_predictions(num_trained: int, split: str, logits: Float32Array) -> None:
    """Raise DivergedError, with the first sample, if a prediction is not finite.

    Args:
        num_trained: Training iterations of the model.
        split: Of the samples.
        logits: float32, (n,), by sample.
    """
    is_finite = np.isfinite(logits)
    if not is_finite.all():
        sample = int(np.argmin(is_finite))
        raise DivergedError(
            f"the prediction for sample {sample:,} of the {split} split is {logits[sample]} after {num_trained:,} "
            f"iterations (not finite: {np.count_nonzero(~is_finite):,} of {len(logits):,} samples): {CURE}"
        )
