"""The optimizer of rows in two forms: operations of torch, and what the update kernel needs to know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.config import Config, RowOptimizerConfig
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.trainer.row_optimizer import RowOptimizer, build_optimizer_of_tables

NUM_PARAMETERS = 5


@dataclass(frozen=True)
class RowStep:
    """The optimizer of the rows of a job.

    Args:
        config: The settings of the optimizer.
        row_dim: The number of trained columns.
        row_width: The number of columns of a row.
        learning_rates: The learning rate of each table if `by_table`, else of all rows.
        num_unused: The number of columns that the table does not use, for each learning rate.
        by_table: Whether the last column of a row is the number of its table.
    """

    config: RowOptimizerConfig
    row_dim: int
    row_width: int
    learning_rates: tuple[LearningRate, ...]
    num_unused: tuple[int, ...]
    by_table: bool

    def parameters(self, num_trained: int) -> NDArray[np.float32]:
        """Return the parameters of one step.

        They are computed in float64 and then rounded, as torch does with numbers.

        Args:
            num_trained: As for RowOptimizer.step.
        Returns:
            float32, shape (number of learning rates, NUM_PARAMETERS): the factor of the direction, the limit of the
            gradients, and up to three parameters that depend on the optimizer.
        """
        table = np.zeros((len(self.learning_rates), NUM_PARAMETERS))
        table[:, 1] = self.config.clip_value or 0.0
        for place, (rate, unused) in enumerate(zip(self.learning_rates, self.num_unused, strict=True)):
            factor, others = self._parameters(rate(num_trained), unused, num_trained)
            table[place, 0] = factor
            table[place, 2 : 2 + len(others)] = others
        return table.astype(np.float32)

    def _parameters(self, rate: float, unused: int, num_trained: int) -> tuple[float, list[float]]:
        """Return the factor of the direction, then what the optimizer needs besides."""
        config = self.config
        match config.name:
            case "sgd":
                return -rate, []
            case "momentum":
                return -rate, [config.momentum]
            case "adagrad":
                return -rate, [config.effective_eps]
            case "rowwise_adagrad":
                return rate, [config.effective_eps, self.row_dim - unused]
            case "adam":
                unbias1, unbias2 = (1 - beta**num_trained for beta in config.betas)
                step_size = rate * math.sqrt(unbias2) / unbias1
                return -step_size, [config.effective_eps, 1 - config.betas[0], 1 - config.betas[1]]


class FusibleOptimizer:
    """A RowOptimizer that is also known as a RowStep, so that a kernel may add up gradients and step in one pass.

    Args:
        row_step: The optimizer.
        optimizer: The same optimizer.
    """

    def __init__(self, row_step: RowStep, optimizer: RowOptimizer) -> None:
        self.row_step = row_step
        self._optimizer = optimizer

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        self._optimizer.step(rows, gradients, num_trained)


def fusible_optimizer(config: Config, schema: Schema, *, waits: bool = True) -> FusibleOptimizer:
    """Return the optimizer of all rows of a job; build_optimizer_of_tables describes the arguments."""
    return FusibleOptimizer(row_step_of(config, schema), build_optimizer_of_tables(config, schema, waits=waits))


def row_step_of(config: Config, schema: Schema) -> RowStep:
    """Return the optimizer of all rows of a job, as row_optimizer.build_optimizer_of_tables builds it."""
    rates, num_unused = [config.row_learning_rate], [0]
    if config.optimizes_by_table:
        names = [table.name for table in schema.own_tables]
        rates = [config.row_learning_rate_of(name) for name in names]
        num_unused = [config.unused_columns_of(name) for name in names]
    return RowStep(
        config.row_optimizer,
        config.model.row_dim,
        row_width(config),
        tuple(LearningRate(rate, config.schedule) for rate in rates),
        tuple(num_unused),
        config.optimizes_by_table,
    )
