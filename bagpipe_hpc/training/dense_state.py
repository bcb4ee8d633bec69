"""Dense parameters, and the state of their optimizer, as host arrays and back: what a checkpoint holds of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.training.dense import dense_parameters


def keep_dense(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copies of all dense parameters by name, float32."""
    return {name: values.copy() for name, values in dense_parameters(model).items()}


def keep_optimizer(optimizer: torch.optim.Optimizer) -> Any:
    """A copy of its state: numbers, text, arrays and containers of them."""
    return _converted(optimizer.state_dict(), torch.Tensor, lambda tensor: tensor.detach().cpu().numpy().copy())


def restore_dense(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, NDArray[np.float32]],
    state: Any,
) -> None:
    """Take over what `keep_dense` and `keep_optimizer` returned; settings such as the learning rate stay as they are.

    Raises:
        CheckpointError: names the first parameter of another name or shape.
    """
    mine = dict(model.named_parameters())
    for name in sorted(mine.keys() | parameters.keys()):
        here = tuple(mine[name].shape) if name in mine else None
        saved = parameters[name].shape if name in parameters else None
        if here != saved:
            raise CheckpointError(
                f"the job contradicts the checkpoint: dense parameter {name} has shape {saved} in the checkpoint, "
                f"{here} in the job; continue with the settings of the checkpoint, or start without --resume"
            )
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(torch.from_numpy(parameters[name]))
    restored = _converted(state, np.ndarray, torch.from_numpy)
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.state_dict()["param_groups"]
    ]
    optimizer.load_state_dict(restored)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def _converted(tree: Any, kind: type, convert: Any) -> Any:
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, dict):
        return {key: _converted(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_converted(value, kind, convert) for value in tree)
    return tree
