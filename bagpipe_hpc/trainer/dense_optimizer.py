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
    """Steps at the learning rate of the iteration. All trainers do the same to the same gradients.

    Args:
        torch_optimizer: What makes the step.
        learning_rate: Replaces that of the optimizer.
        clip_norm: Gradients whose norm, over all parameters, is larger are scaled down to it; None: they are not.
    """

    def __init__(
        self, torch_optimizer: torch.optim.Optimizer, learning_rate: LearningRate, clip_norm: float | None = None
    ) -> None:
        self.torch_optimizer = torch_optimizer
        self._learning_rate, self._clip_norm = learning_rate, clip_norm

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.torch_optimizer.zero_grad(set_to_none=True)

    def step(self, num_trained: int) -> None:
        """Update the parameters. Their gradients are sums over the trainers.

        Args:
            num_trained: Training iterations of the whole job up to and including this one.
        """
        groups = self.torch_optimizer.param_groups
        if self._clip_norm is not None:
            clip_by_norm([p.grad for group in groups for p in group["params"] if p.grad is not None], self._clip_norm)
        for group in groups:
            group["lr"] = self._learning_rate(num_trained)
        self.torch_optimizer.step()


def clip_by_norm(gradients: list[torch.Tensor], clip_norm: float) -> None:
    """Scale gradients in place, as torch.nn.utils.clip_grad_norm_ does.

    Its sums depend on the number of threads, and trainers, which may differ in that, must agree to the bit.
    """
    squares = torch.cat([ordered_sum(gradient.double().square().flatten()) for gradient in gradients])
    norm = float(ordered_sum(squares).sqrt())
    scale = clip_norm / (norm + 1e-6)
    if scale < 1:
        for gradient in gradients:
            gradient.mul_(scale)


def build_dense_optimizer(
    config: DenseOptimizerConfig, parameters: Parameters, learning_rate: LearningRate
) -> DenseOptimizer:
    """The optimizer a configuration names; `check_dense_optimizer` has passed."""
    kind = _classes()[config.name.lower()]
    return DenseOptimizer(kind(parameters, lr=learning_rate.base, **config.arguments), learning_rate, config.clip_norm)


def check_dense_optimizer(config: DenseOptimizerConfig) -> None:
    """See that the class exists, takes the arguments, and updates a matrix and a vector by their gradients alone.

    Raises:
        ConfigError: says what is wrong and what is allowed.
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
    """What torch says against a step on a matrix and a vector; nothing where it makes the step."""
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in [(2, 3), (3,)]]
    try:
        optimizer = build_dense_optimizer(config, parameters, LearningRate(0.1))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step(1)
    except Exception as error:  # whatever an optimizer of torch makes of arguments that it does not check
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _usable() -> str:
    """The classes that can train a dense model; some of torch.optim need sparse gradients, matrices or a closure."""
    kinds = [kind.__name__ for kind in _classes().values()]
    return ", ".join(name for name in kinds if not _why_not(DenseOptimizerConfig(name=name)))


def _classes() -> dict[str, type[Any]]:
    """By name in lower case."""
    base = torch.optim.Optimizer
    kinds = [kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, base)]
    return {kind.__name__.lower(): kind for kind in kinds if kind is not base}
