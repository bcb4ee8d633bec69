"""The state of dense parameters comes back, and a state of something else is refused before training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.trainer.dense_state import keep_dense, keep_optimizer, restore_dense
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.random_state import keep_random_state, restore_random_state


def trained(name: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model after one step."""
    model = torch.nn.Linear(3, 2)
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "Adagrad", "RMSprop", "Adafactor", "ASGD", "Rprop", "Adadelta", "NAdam"]
)
def test_the_state_of_any_optimizer_comes_back(name: str) -> None:
    model, optimizer = trained(name)
    dense, state = keep_dense(model), keep_optimizer(optimizer)
    other, its = trained(name)
    restore_dense(other, its, dense, state)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert str(keep_optimizer(its)["state"]) == str(state["state"])


def put(place: tuple[Any, ...], value: Any) -> Any:
    def change(state: Any) -> None:
        for key in place[:-1]:
            state = state[key]
        state[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(("state", 0, "exp_avg"), np.zeros((2, 4), np.float32)), r"exp_avg of parameter 0 has shape \(2, 4\)"),
        (put(("state", 0, "exp_avg"), np.full((2, 3), np.nan, np.float32)), "exp_avg of parameter 0 is not finite"),
        (put(("state", 9), {}), "there is no parameter 9"),
        (put(("state", "0"), {}), "there is no parameter '0'"),
        (put(("state", 0), 7), "no attribute"),
        (put(("state",), []), "no attribute"),
        (put(("param_groups", 0, "params"), [0]), "it has other groups of parameters"),
        (put(("param_groups",), 7), "not iterable"),
    ],
)
def test_another_state_is_refused(change: Any, said: str) -> None:
    model, optimizer = trained("Adam")
    state = copy.deepcopy(keep_optimizer(optimizer))
    change(state)
    with pytest.raises(CheckpointError, match=rf"state of the dense optimizer .* is not that of Adam .*{said}"):
        restore_dense(model, optimizer, keep_dense(model), state)


@pytest.mark.parametrize(
    "states", [{}, [], None, {"torch_rng": np.zeros(3, np.uint8)}, {"torch_rng": np.zeros(5000)}, 7]
)
def test_another_state_of_random_numbers_is_refused(states: Any) -> None:
    device = CpuDevice()
    before = keep_random_state(device)
    with pytest.raises(
        CheckpointError, match="torch cannot restore the state of its random numbers from the checkpoint"
    ):
        restore_random_state(device, states)
    restore_random_state(device, before)
