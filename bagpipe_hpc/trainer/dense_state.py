"""Copies of the dense parameters and of the state of their optimizer, as a checkpoint holds them: host arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.trainer.dense_gradients import dense_parameters


def keep_dense(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return copies of all dense parameters by name, as float32 host arrays of their own shapes."""
    return {name: values.copy() for name, values in dense_parameters(model).items()}


def keep_optimizer(optimizer: torch.optim.Optimizer) -> Any:
    """Return a copy of the state of an optimizer: numbers, text, host arrays, and containers of them."""
    return _converted(optimizer.state_dict(), torch.Tensor, lambda tensor: tensor.detach().cpu().numpy().copy())


def restore_dense(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, NDArray[np.float32]],
    state: Any,
) -> None:
    """Restore what `keep_dense` and `keep_optimizer` returned. Settings such as the learning rate stay as they are.

    Args:
        model: Gets the parameters.
        optimizer: Gets the state.
        parameters: float32 by name, in the shapes of the model's parameters.
        state: The state of the optimizer.
    Raises:
        CheckpointError: a parameter has another name or shape, or the state is not that of the optimizer. The message
            names the first such parameter.
    """
    mine = dict(model.named_parameters())
    for name in sorted(mine.keys() | parameters.keys()):
        here = tuple(mine[name].shape) if name in mine else None
        saved = parameters[name].shape if name in parameters else None
        if here != saved:
            raise CheckpointError(
                f"the job contradicts the checkpoint: dense parameter {name} has shape {saved} in the checkpoint, "
                f"{here} in the job; give the settings of the checkpoint, choose another one, or train afresh"
            )
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(torch.from_numpy(parameters[name]))
    try:
        _restore_optimizer(optimizer, state)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"the state of the dense optimizer in the checkpoint is not that of {type(optimizer).__name__} for this "
            f"model ({' '.join(str(error).split())}): the state is damaged, or the model's parameters have another "
            "order now; use another checkpoint"
        ) from error


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    _require_state_of(optimizer, state)
    restored = _converted(state, np.ndarray, torch.from_numpy)
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.state_dict()["param_groups"]
    ]
    optimizer.load_state_dict(restored)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def _require_state_of(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Check what load_state_dict does not check: types, shapes, and whether numbers are finite."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    if not isinstance(state, dict) or [group["params"] for group in state["param_groups"]] != groups:
        raise ValueError("it has other groups of parameters")
    for index, values in state["state"].items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise ValueError(f"there is no parameter {index!r}")
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                _require_like(f"{name} of parameter {index}", value, tuple(parameters[index].shape))


def _require_like(name: str, value: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Check that state is finite and has the shape of its parameter, or one reduced along some axes or to a number."""
    is_reduced = value.ndim == len(shape) and all(
        mine in (1, its) for mine, its in zip(value.shape, shape, strict=True)
    )
    if value.ndim > 0 and not is_reduced:
        raise ValueError(f"{name} has shape {value.shape}, the parameter {shape}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} is not finite")


def _converted(tree: Any, kind: type, convert: Any) -> Any:
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, dict):
        return {key: _converted(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_converted(value, kind, convert) for value in tree)
    return tree
