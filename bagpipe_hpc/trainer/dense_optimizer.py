"""The optimizer of dense parameters: a class of torch.optim, its learning rate, and clipping by global norm."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch

from bagpipe_hpc.config import DenseOptimizerConfig
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.trainer.row_optimizer import ordered_sum

Parameters = Iterable[torch.nn.Parameter]


class DenseOptimizer:
    """Steps at the learning rate of the iteration. All trainers make the same step with the same gradients.

    Args:
        torch_optimizer: Makes the step.
        learning_rate: Replaces the learning rate of the torch optimizer.
        clip_norm: The largest norm of the gradients, over all parameters. Larger gradients are scaled down to it. None:
            gradients are never scaled.
        waits: Whether the host waits for the norm, to leave gradients alone that need no scaling.
    """

    def __init__(
        self,
        torch_optimizer: torch.optim.Optimizer,
        learning_rate: LearningRate,
        clip_norm: float | None = None,
        *,
        waits: bool = True,
    ) -> None:
        self.torch_optimizer = torch_optimizer
        self._learning_rate, self._clip_norm, self._waits = learning_rate, clip_norm, waits

    def zero_grad(self) -> None:
        """Delete all gradients."""
        for group in self.torch_optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self, num_trained: int) -> None:
        """Update the parameters from their gradients, which are sums over the trainers.

        Args:
            num_trained: Training iterations of the whole job up to and including this one.
        Communication: none.
        """
        groups = self.torch_optimizer.param_groups
        if self._clip_norm is not None:
            gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
            clip_by_norm(gradients, self._clip_norm, waits=self._waits)
        for group in groups:
            group["lr"] = self._learning_rate(num_trained)
        self.torch_optimizer.step()


def clip_by_norm(gradients: list[torch.Tensor], clip_norm: float, *, waits: bool = True) -> None:
    """Scale gradients in place so that their norm is at most clip_norm, as torch.nn.utils.clip_grad_norm_ does.

    The sums of the torch function depend on the number of threads. Trainers may have different numbers of threads, but
    their results must be equal to the bit, so this function adds in a fixed order.

    Args:
        gradients: Floating-point tensors of any shapes.
        clip_norm: The largest norm over all gradients together.
        waits: Whether the host waits for the norm. If it does not, gradients are always scaled, perhaps by 1, which
            changes no bit.
    """
    squares = torch.cat([ordered_sum(gradient.double().square().flatten()) for gradient in gradients])
    scales = clip_norm / (ordered_sum(squares).sqrt() + 1e-6)
    if waits:
        scale: float | torch.Tensor = float(scales)
        if not scale < 1:
            return
    else:
        scale = torch.where(scales < 1, scales, 1.0).squeeze()
    for gradient in gradients:
        gradient.mul_(scale)


def build_dense_optimizer(
    config: DenseOptimizerConfig, parameters: Parameters, learning_rate: LearningRate, *, waits: bool = True
) -> DenseOptimizer:
    """Return the optimizer that a configuration names. `check_dense_optimizer` has accepted the configuration.

    Args:
        config: The settings of the optimizer.
        parameters: The parameters of the model.
        learning_rate: The learning rate of each iteration.
        waits: See DenseOptimizer.
    """
    kind = _classes()[config.name.lower()]
    torch_optimizer = kind(parameters, lr=learning_rate.base, **config.arguments)
    return DenseOptimizer(torch_optimizer, learning_rate, config.clip_norm, waits=waits)


def check_dense_optimizer(config: DenseOptimizerConfig) -> None:
    """Check that the class exists, takes the arguments, and updates a matrix and a vector from their gradients alone.

    Raises:
        ConfigError: one of these is not so. The message names the allowed values.
    """
    kind = _classes().get(config.name.lower())
    if kind is None:
        raise ConfigError(
            f"dense_optimizer.name = {config.name!r}: torch.optim has no such class; choose one of {_usable()}"
        )
    allowed = [name for name in inspect.signature(kind).parameters if name not in ("params", "lr")]
    for name in config.arguments:
        if name == "lr":
            raise ConfigError("dense_optimizer.arguments.lr: set dense_optimizer.learning_rate instead")
        if name not in allowed:
            raise ConfigError(f"dense_optimizer.arguments.{name}: {kind.__name__} takes {', '.join(allowed)}")
    if reason := _why_not(config):
        raise ConfigError(
            f"dense_optimizer: {kind.__name__} with arguments {config.arguments} cannot train a dense model: {reason}; "
            f"choose other arguments, or one of {_usable()}"
        )


def _why_not(config: DenseOptimizerConfig) -> str:
    """Return torch's message if it cannot make a step on a matrix and a vector; an empty string if it can."""
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in [(2, 3), (3,)]]
    try:
        optimizer = build_dense_optimizer(config, parameters, LearningRate(0.1))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step(1)
    except Exception as error:  # an optimizer of torch may raise any error on arguments that it does not check
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _usable() -> str:
    """Return the names of the classes that can train a dense model.

    Some classes of torch.optim cannot: they need sparse gradients, matrices or a closure.
    """
    kinds = [kind.__name__ for kind in _classes().values()]
    return ", ".join(name for name in kinds if not _why_not(DenseOptimizerConfig(name=name)))


def _classes() -> dict[str, type[Any]]:
    """Return the optimizers of torch.optim by name in lower case."""
    base = torch.optim.Optimizer
    kinds = [kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, base)]
    return {kind.__name__.lower(): kind for kind in kinds if kind is not base}
