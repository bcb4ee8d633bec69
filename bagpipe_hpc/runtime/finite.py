"""Checks that training has not diverged: the loss, dense parameters, rows and predictions must be finite."""

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
    """Check the loss of an iteration.

    Args:
        num_trained: Training iterations of the whole job up to and including this one.
        loss: The mean loss over the global batch.
    Raises:
        DivergedError: the loss is not finite.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} after {num_trained:,} iterations: {CURE}")


def require_finite_parameters(num_trained: int, parameters: Mapping[str, Float32Array]) -> None:
    """Check the dense parameters.

    Args:
        num_trained: Training iterations of the whole job up to here.
        parameters: float32, any shape, by name.
    Raises:
        DivergedError: a parameter is not finite. The message names the first one.
    """
    for name, values in parameters.items():
        if not np.isfinite(values).all():
            raise DivergedError(f"the dense parameter {name} is not finite after {num_trained:,} iterations: {CURE}")


class FiniteRows:
    """Checks the trained columns of rows. Optimizer state may overflow without harm, so it is not checked.

    Args:
        config: The settings of the job.
        schema: The schema of the samples.
    """

    def __init__(self, config: Config, schema: Schema) -> None:
        self._columns = config.model.row_dim
        self._key_space = KeySpace(schema.num_embeddings)
        self._table_names = [table.name for table in schema.own_tables]

    def require(self, num_trained: int, keys: NDArray[np.int64], rows: Float32Array) -> None:
        """Check rows.

        Args:
            num_trained: Training iterations of the whole job up to here.
            keys: The keys of the rows, int64, shape (n,).
            rows: float32, shape (n, row_width).
        Raises:
            DivergedError: a row is not finite. The message names the first one.
        """
        is_finite = np.isfinite(rows[:, : self._columns]).all(axis=1)
        if not is_finite.all():
            table, row = self._key_space.locate(int(keys[int(np.argmin(is_finite))]))
            raise DivergedError(
                f"row {row:,} of table {self._table_names[table]!r} is not finite after {num_trained:,} iterations: "
                f"{CURE}"
            )


def require_finite_predictions(num_trained: int, split: str, logits: Float32Array, first: int = 0) -> None:
    """Check the predictions of an evaluation.

    Args:
        num_trained: Training iterations of the whole job before the evaluation.
        split: The name of the split, for the message.
        logits: float32, shape (n,) or (n, num_labels), of consecutive samples of the split.
        first: The number of the first of them.
    Raises:
        DivergedError: a prediction is not finite. The message names the first sample.
    """
    is_finite = np.isfinite(logits.reshape(len(logits), -1)).all(axis=1)
    if not is_finite.all():
        sample = int(np.argmin(is_finite))
        raise DivergedError(
            f"the prediction for sample {first + sample:,} of the {split} split is {logits[sample]} after "
            f"{num_trained:,} iterations (not finite: {np.count_nonzero(~is_finite):,} of {len(logits):,} samples): "
            f"{CURE}"
        )
