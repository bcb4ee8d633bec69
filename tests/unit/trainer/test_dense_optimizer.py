"""Optimizers of dense parameters: classes of torch.optim, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bagpipe_hpc.checkpoint.dense_file import DenseState, load_dense, store_dense
from bagpipe_hpc.config import DenseOptimizerConfig, ScheduleConfig, load_config
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.trainer.dense_optimizer import (
    DenseOptimizer,
    build_dense_optimizer,
    check_dense_optimizer,
    clip_by_norm,
)
from bagpipe_hpc.trainer.dense_state import keep_dense, keep_optimizer, restore_dense

TAKEN = ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop"]
TAKEN += ["SGD"]
SCHEDULE = ScheduleConfig(warm_up_iterations=3, decay="inverse_sqrt")
RATE = LearningRate(0.05, SCHEDULE)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))


def gradients(model: nn.Module, iteration: int) -> None:
    torch.manual_seed(iteration)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def train(model: nn.Module, optimizer: DenseOptimizer, iterations: range) -> None:
    for iteration in iterations:
        gradients(model, iteration)
        optimizer.step(iteration + 1)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", TAKEN)
def test_pytorchs_classes_at_the_rate_of_the_iteration(name: str) -> None:
    config = DenseOptimizerConfig(name=name)
    check_dense_optimizer(config)
    ours, theirs = make_model(), make_model()
    train(ours, build_dense_optimizer(config, ours.parameters(), RATE), range(6))
    optimizer = getattr(torch.optim, name)(theirs.parameters(), lr=RATE.base)
    for iteration in range(6):
        gradients(theirs, iteration)
        optimizer.param_groups[0]["lr"] = RATE(iteration + 1)
        optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", TAKEN)
def test_state_goes_through_a_checkpoint(name: str, tmp_path: Path) -> None:
    config = DenseOptimizerConfig(name=name, arguments={"momentum": 0.9} if name == "SGD" else {})
    whole, first, second = make_model(), make_model(), nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    train(whole, build_dense_optimizer(config, whole.parameters(), RATE), range(6))
    optimizer = build_dense_optimizer(config, first.parameters(), RATE)
    train(first, optimizer, range(3))
    path = tmp_path / "dense.h5"
    store_dense(path, DenseState(keep_dense(first), keep_optimizer(optimizer.torch_optimizer)))
    saved = load_dense(path)
    optimizer = build_dense_optimizer(config, second.parameters(), RATE)
    restore_dense(second, optimizer.torch_optimizer, saved.parameters, saved.state)
    train(second, optimizer, range(3, 6))
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["name=adamm"], ["dense_optimizer.name = 'adamm'", "choose one of", "Adam, "]),
        (["name=Optimizer"], ["'Optimizer'"]),
        (["name=os.system"], ["'os.system'"]),
        (["name=lr_scheduler"], ["'lr_scheduler'"]),
        (["name=adam", "arguments.beta=0.9"], ["dense_optimizer.arguments.beta: Adam takes betas, eps, "]),
        (["name=adam", "arguments.lr=0.9"], ["set dense_optimizer.learning_rate instead"]),
        (["name=adam", "arguments.params=[]"], ["arguments.params: Adam takes betas"]),
        (["name=adam", "arguments.betas=[0.9, 2]"], ["Adam with arguments {'betas': [0.9, 2]}", "Invalid beta"]),
        (["name=adam", "arguments.betas=[0.9]"], ["Adam with arguments {'betas': [0.9]}", "choose other arguments"]),
        (["name=adam", "arguments.betas=0.9"], ["Adam with arguments", "choose other arguments"]),
        (["arguments.momentum=high"], ["SGD with arguments {'momentum': 'high'}"]),
        (["name=lbfgs"], ["LBFGS with arguments {} cannot train", "closure"]),
        (["name=sparseadam"], ["SparseAdam", "does not support dense gradients"]),
        (["name=muon"], ["Muon", "2D"]),
    ],
)
def test_what_cannot_train_is_refused(overrides: list[str], words: list[str]) -> None:
    config = load_config(None, [f"dense_optimizer.{override}" for override in overrides])
    with pytest.raises(ConfigError) as error:
        check_dense_optimizer(config.dense_optimizer)
    assert [word for word in words if word not in str(error.value)] == [], error.value


@pytest.mark.parametrize("clip_norm", [0.1, 3.0, 1e6])
def test_clipping_is_pytorchs(clip_norm: float) -> None:
    """Not to the bit: PyTorch adds in another order."""
    model, other = make_model(), make_model()
    for each in (model, other):
        gradients(each, 0)
    clip_by_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None], clip_norm)
    nn.utils.clip_grad_norm_(other.parameters(), clip_norm)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("clip_norm", [0.1, 3.0, 1e6])
def test_clipping_without_a_wait_gives_the_same_bits(clip_norm: float) -> None:
    model, other = make_model(), make_model()
    for each, waits in ((model, True), (other, False)):
        gradients(each, 0)
        clip_by_norm([p.grad for p in each.parameters() if p.grad is not None], clip_norm, waits=waits)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.usefixtures("threads")
def test_clipping_does_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    before = [torch.randn(300_001), torch.empty(0), torch.randn(7, 100_003)]
    results: list[list[Any]] = []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        results.append([gradient.clone() for gradient in before])
        clip_by_norm(results[-1], 0.77)
    norm = torch.cat([gradient.double().flatten() for gradient in results[0]]).norm()
    assert norm.item() == pytest.approx(0.77, rel=1e-6)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


def test_only_optimizers_that_work_are_suggested() -> None:
    with pytest.raises(ConfigError) as caught:
        check_dense_optimizer(DenseOptimizerConfig(name="LBFGS"))
    suggested = str(caught.value).rpartition("one of ")[2].split(", ")
    assert {"SGD", "Adam", "AdamW"} <= set(suggested)
    assert not {"LBFGS", "SparseAdam", "Muon"} & set(suggested)
    for name in suggested:
        check_dense_optimizer(DenseOptimizerConfig(name=name))
