"""Optimizers of embedding rows. The owner of a row makes one step per iteration.

Every row is a parameter of its own: a row that an iteration does not use has no gradient and stays as it is, with its
state. All arithmetic is elementwise, or adds up one row in an order that depends on the width of the row only. So the
other rows of the same step do not change the result. docs/optimizers.md has the formulas and says which optimizers are
equal to those of PyTorch to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch

from bagpipe_hpc.config import Config, RowOptimizerConfig
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.learning_rate import LearningRate


class RowOptimizer(Protocol):
    """The interface of an optimizer of rows.

    The state of a row lies in the row itself, behind the trained columns, and travels with it.

    Communication: none.
    """

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """Update rows in place.

        Args:
            rows: float32, shape (n, row_width); row_layout.py describes the columns.
            gradients: float32, shape (n, row_dim), summed over the trainers. The step may overwrite them.
            num_trained: Training iterations of the whole job up to and including the one that the gradients are of.
        """


class RowSGD:
    """Stochastic gradient descent, as torch.optim.SGD without momentum. It has no state."""

    def __init__(self, learning_rate: LearningRate) -> None:
        self._learning_rate = learning_rate

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        rows.add_(gradients, alpha=-self._learning_rate(num_trained))


class RowMomentum:
    """Stochastic gradient descent with momentum, as torch.optim.SGD. State: the momentum buffer.

    Args:
        learning_rate: The learning rate of each iteration.
        momentum: The factor of the momentum buffer in each step.
        nesterov: Whether the momentum is Nesterov's.
    """

    def __init__(self, learning_rate: LearningRate, momentum: float, nesterov: bool) -> None:
        self._learning_rate, self._momentum, self._nesterov = learning_rate, momentum, nesterov

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        weights, buffer = rows.tensor_split([gradients.shape[1]], dim=1)
        buffer.mul_(self._momentum).add_(gradients)
        direction = gradients.add_(buffer, alpha=self._momentum) if self._nesterov else buffer
        weights.add_(direction, alpha=-self._learning_rate(num_trained))


class RowAdagrad:
    """Adagrad, as torch.optim.Adagrad. State: the sum of squared gradients."""

    def __init__(self, learning_rate: LearningRate, eps: float) -> None:
        self._learning_rate, self._eps = learning_rate, eps

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        weights, sums = rows.tensor_split([gradients.shape[1]], dim=1)
        sums.addcmul_(gradients, gradients)
        weights.addcdiv_(gradients, sums.sqrt().add_(self._eps), value=-self._learning_rate(num_trained))


class RowwiseAdagrad:
    """Adagrad with one step size per row, as in FBGEMM and TorchRec. State: the sum of mean squared gradients.

    Args:
        learning_rate: The learning rate of each iteration.
        eps: Added to the denominator.
        num_unused: How many columns of a row are not trained. Their gradients are zero.
    """

    def __init__(self, learning_rate: LearningRate, eps: float, num_unused: int = 0) -> None:
        self._learning_rate, self._eps, self._num_unused = learning_rate, eps, num_unused

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        weights, sums = rows.tensor_split([gradients.shape[1]], dim=1)  # sums: (n, 1)
        sums.add_(ordered_sum(gradients.square()) / (gradients.shape[1] - self._num_unused))
        weights.sub_(gradients.mul_(self._learning_rate(num_trained) / sums.sqrt().add_(self._eps)))


class RowAdam:
    """Adam, as torch.optim.SparseAdam. State: both moments.

    Only rows with a gradient update their moments. The bias correction counts the training iterations of the whole job.
    """

    def __init__(self, learning_rate: LearningRate, betas: tuple[float, float], eps: float) -> None:
        self._learning_rate, self._betas, self._eps = learning_rate, betas, eps

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        dim = gradients.shape[1]
        weights, means, squares = rows.tensor_split([dim, 2 * dim], dim=1)
        beta1, beta2 = self._betas
        means.add_(gradients.sub(means).mul_(1 - beta1))
        squares.add_(gradients.square().sub_(squares).mul_(1 - beta2))
        unbias1, unbias2 = (1 - beta**num_trained for beta in self._betas)
        step_size = self._learning_rate(num_trained) * math.sqrt(unbias2) / unbias1
        weights.add_(means.div(squares.sqrt().add_(self._eps)).mul_(-step_size))


class ClippedByValue:
    """An optimizer that steps after every element of the gradients has been clamped to [-limit, limit]."""

    def __init__(self, optimizer: RowOptimizer, limit: float) -> None:
        self._optimizer, self._limit = optimizer, limit

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        self._optimizer.step(rows, gradients.clamp_(-self._limit, self._limit), num_trained)


class ByTable:
    """An optimizer per table. The last column of a row is the number of its table.

    Args:
        optimizers: The optimizer of each table. Several tables may use the same one.
        waits: Whether the host waits for the number of rows of each optimizer. If it does not, every optimizer steps on
            copies of all rows.
    """

    def __init__(self, optimizers: Sequence[RowOptimizer], *, waits: bool = True) -> None:
        self._optimizers = list(dict.fromkeys(optimizers))
        self._numbers = torch.tensor([self._optimizers.index(optimizer) for optimizer in optimizers])
        self._waits = waits

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        """See RowOptimizer."""
        self._numbers = self._numbers.to(rows.device)  # a copy in the first step at most
        numbers = self._numbers[rows[:, -1].long()]
        if not self._waits:
            before = rows[:, :-1].clone()
            for number, optimizer in enumerate(self._optimizers):
                stepped = before.clone()
                optimizer.step(stepped, gradients.clone(), num_trained)
                rows[:, :-1] = torch.where((numbers == number)[:, None], stepped, rows[:, :-1])
            return
        for number, optimizer in enumerate(self._optimizers):
            chosen = (numbers == number).nonzero().squeeze(1)
            part = rows[chosen, :-1]
            optimizer.step(part, gradients[chosen], num_trained)
            rows[chosen, :-1] = part


def build_optimizer_of_tables(config: Config, schema: Schema, *, waits: bool = True) -> RowOptimizer:
    """Return the optimizer of all rows of a job.

    Args:
        config: The settings of the job.
        schema: The schema of the data set.
        waits: Whether the host may wait for the device; see ByTable.
    """

    @cache
    def build(rate: float, num_unused: int) -> RowOptimizer:
        return build_row_optimizer(config.row_optimizer, LearningRate(rate, config.schedule), num_unused)

    if not config.optimizes_by_table:
        return build(config.row_learning_rate, 0)
    names = [table.name for table in schema.own_tables]
    return ByTable(
        [build(config.row_learning_rate_of(name), config.unused_columns_of(name)) for name in names], waits=waits
    )


def build_row_optimizer(config: RowOptimizerConfig, learning_rate: LearningRate, num_unused: int = 0) -> RowOptimizer:
    """Return the optimizer that a configuration names.

    Args:
        config: The settings of the optimizer.
        learning_rate: The learning rate of each iteration.
        num_unused: How many columns of a row are not trained.
    """
    optimizer = _build_unclipped(config, learning_rate, num_unused)
    return optimizer if config.clip_value is None else ClippedByValue(optimizer, config.clip_value)


def _build_unclipped(config: RowOptimizerConfig, learning_rate: LearningRate, num_unused: int) -> RowOptimizer:
    match config.name:
        case "sgd":
            return RowSGD(learning_rate)
        case "momentum":
            return RowMomentum(learning_rate, config.momentum, config.nesterov)
        case "adagrad":
            return RowAdagrad(learning_rate, config.effective_eps)
        case "rowwise_adagrad":
            return RowwiseAdagrad(learning_rate, config.effective_eps, num_unused)
        case "adam":
            return RowAdam(learning_rate, config.betas, config.effective_eps)


def ordered_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over the last dimension, in an order of additions that depends on n only.

    The function adds the second half of the columns to the first half until one column is left. So neither the number
    of threads, nor the device, nor the other sums of the same call change the order.

    Args:
        values: Floating point, shape (..., n), n >= 1. The function may overwrite them.
    Returns:
        The same dtype, shape (..., 1).
    """
    while (width := values.shape[-1]) > 1:
        half = (width + 1) // 2
        values[..., : width - half] += values[..., half:]
        values = values[..., :half]
    return values
