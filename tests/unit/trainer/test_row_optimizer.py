"""Optimizers of rows do what PyTorch's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.row_layout import initial_tails, row_width
from bagpipe_hpc.trainer.row_optimizer import ByTable, RowOptimizer, build_optimizer_of_tables, build_row_optimizer

NUM_ROWS = 37
Theirs = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]


def sgd(parameters: list[nn.Parameter], rate: float, **arguments: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=rate, **arguments)


def adagrad(parameters: list[nn.Parameter], rate: float, **arguments: Any) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=rate, **arguments)


CASES: dict[str, tuple[dict[str, Any], Theirs, list[str]]] = {  # settings, PyTorch's optimizer, its state in row order
    "sgd": ({"name": "sgd"}, sgd, []),
    "momentum": ({"name": "momentum"}, lambda p, rate: sgd(p, rate, momentum=0.9), ["momentum_buffer"]),
    "nesterov": (
        {"name": "momentum", "momentum": 0.7, "nesterov": True},
        lambda p, rate: sgd(p, rate, momentum=0.7, nesterov=True),
        ["momentum_buffer"],
    ),
    "adagrad": ({"name": "adagrad"}, adagrad, ["sum"]),
    "adagrad from 0.1": (
        {"name": "adagrad", "initial_accumulator_value": 0.1, "eps": 1e-5},
        lambda p, rate: adagrad(p, rate, initial_accumulator_value=0.1, eps=1e-5),
        ["sum"],
    ),
    "adam": ({"name": "adam"}, lambda p, rate: torch.optim.SparseAdam(p, lr=rate), ["exp_avg", "exp_avg_sq"]),
    "adam with other betas": (
        {"name": "adam", "betas": [0.5, 0.99], "eps": 1e-4},
        lambda p, rate: torch.optim.SparseAdam(p, lr=rate, betas=(0.5, 0.99), eps=1e-4),
        ["exp_avg", "exp_avg_sq"],
    ),
}  # fmt: skip
ROWWISE = {"name": "rowwise_adagrad", "initial_accumulator_value": 0.25}
ALL_SETTINGS = [settings for settings, _, _ in CASES.values()] + [ROWWISE]


def make(settings: dict[str, Any], dim: int, rate: float = 0.013) -> tuple[torch.Tensor, RowOptimizer]:
    """Random rows with initial state, and the optimizer."""
    config = Config.model_validate({"model": {"embedding_dim": dim}, "row_optimizer": settings})
    rows = torch.randn(NUM_ROWS, row_width(config))
    rows[:, dim:] = torch.from_numpy(initial_tails(config, 1))
    return rows, build_row_optimizer(config.row_optimizer, LearningRate(rate))


def used_rows(iteration: int) -> torch.Tensor:
    """All in the first iteration, about half of them in the others."""
    return torch.arange(NUM_ROWS)[torch.rand(NUM_ROWS) < (1.5 if iteration == 0 else 0.5)]


def step_some(optimizer: RowOptimizer, rows: torch.Tensor, used: torch.Tensor, gradients: torch.Tensor, i: int) -> None:
    """As the step does it: rows are taken out, updated and put back."""
    some = rows[used]
    optimizer.step(some, gradients.clone(), i + 1)
    rows[used] = some


@pytest.mark.parametrize("rate", [1.0, 0.1, 0.013, 1e-8])
@pytest.mark.parametrize("dim", [1, 5, 16])
@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0]["name"] != "adam"])
def test_every_row_is_a_parameter_of_pytorchs(case: str, dim: int, rate: float) -> None:
    """To the bit, state included: a parameter without a gradient is left alone. (SparseAdam: see below.)"""
    torch.manual_seed(dim)
    settings, theirs, state_names = CASES[case]
    rows, ours = make(settings, dim, rate)
    parameters = [nn.Parameter(row[:dim].clone()) for row in rows]
    optimizer = theirs(parameters, rate)
    for iteration in range(5):
        used = used_rows(iteration)
        gradients = torch.randn(len(used), dim)
        optimizer.zero_grad()
        for row, gradient in zip(used.tolist(), gradients, strict=True):
            parameters[row].grad = gradient.clone()
        optimizer.step()
        step_some(ours, rows, used, gradients, iteration)
    for row, parameter in zip(rows, parameters, strict=True):
        state = [optimizer.state[parameter][name] for name in state_names]
        assert torch.equal(row, torch.cat([parameter.detach(), *state]))


@pytest.mark.parametrize("rate", [1.0, 0.013])
@pytest.mark.parametrize("dim", [1, 5, 16])
@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0]["name"] != "momentum"])
def test_a_table_is_a_parameter_of_pytorchs(case: str, dim: int, rate: float) -> None:
    """To the bit, on an nn.Embedding with ids that repeat; with momentum PyTorch moves rows without gradients, too."""
    torch.manual_seed(dim)
    settings, theirs, state_names = CASES[case]
    rows, ours = make(settings, dim, rate)
    table = nn.Embedding.from_pretrained(rows[:, :dim].clone(), freeze=False, sparse=settings["name"] == "adam")
    optimizer = theirs([table.weight], rate)
    for iteration in range(5):
        ids = used_rows(iteration).repeat(3)[torch.randperm(3)[0] :]
        optimizer.zero_grad()
        table(ids).mul(torch.randn(len(ids), dim)).sum().backward()
        gradient = table.weight.grad
        assert gradient is not None
        summed = gradient.coalesce().to_dense() if gradient.is_sparse else gradient
        used = ids.unique()
        step_some(ours, rows, used, summed[used], iteration)
        optimizer.step()
    state = [optimizer.state[table.weight][name] for name in state_names]
    assert torch.equal(rows, torch.cat([table.weight.detach(), *state], dim=1))


@pytest.mark.parametrize("dim", [1, 2, 5, 16])
def test_rowwise_adagrad_is_its_formula(dim: int) -> None:
    """As FBGEMM's exact_row_wise_adagrad; in float64, so not to the bit."""
    torch.manual_seed(dim)
    rows, ours = make(ROWWISE, dim)
    weights, sums = rows[:, :dim].double().numpy(), np.full(NUM_ROWS, 0.25)
    for iteration in range(5):
        used = used_rows(iteration)
        gradients = torch.randn(len(used), dim)
        step_some(ours, rows, used, gradients, iteration)
        for row, gradient in zip(used.tolist(), gradients.double().numpy(), strict=True):
            sums[row] += np.mean(gradient**2)
            weights[row] -= 0.013 / (np.sqrt(sums[row]) + 1e-8) * gradient
    np.testing.assert_allclose(rows, np.column_stack([weights, sums]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
@pytest.mark.parametrize("dim", [5, 16])
def test_a_rows_place_among_others_does_not_matter(settings: dict[str, Any], dim: int) -> None:
    """Vectorised and remaining elements of an array must be rounded alike."""
    torch.manual_seed(0)
    rows, optimizer = make(settings, dim)
    for iteration in range(3):
        gradients = torch.randn(NUM_ROWS, dim)
        before = rows.clone()
        optimizer.step(rows, gradients.clone(), iteration + 1)
        for row in range(NUM_ROWS):
            alone = before[row : row + 1].clone()
            optimizer.step(alone, gradients[row : row + 1].clone(), iteration + 1)
            assert torch.equal(alone[0], rows[row])


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_no_rows_is_a_valid_step(settings: dict[str, Any]) -> None:
    rows, optimizer = make(settings, 4)
    optimizer.step(rows[:0], torch.empty(0, 4), 1)


def test_a_schedule_is_that_of_the_iteration_given() -> None:
    """Not of how many steps there were: the delayed part of an iteration comes later."""
    config = Config.model_validate({"schedule": {"warm_up_iterations": 4}})
    optimizer = build_row_optimizer(config.row_optimizer, LearningRate(1.0, config.schedule))
    rows = torch.zeros(1, 1)
    for num_trained, expected in [(4, -1.0), (1, -1.25), (2, -1.75)]:
        optimizer.step(rows, torch.ones(1, 1), num_trained)
        assert rows.item() == expected


def test_gradients_are_clipped_by_value() -> None:
    rows, optimizer = make({"name": "sgd", "clip_value": 0.5}, 4, rate=1.0)
    before = rows.clone()
    gradients = torch.randn(NUM_ROWS, 4)
    optimizer.step(rows, gradients.clone(), 1)
    assert torch.equal(rows, before - gradients.clip(-0.5, 0.5))


TABLES = Schema(tables=tuple(TableSchema(name=name, num_embeddings=50) for name in ("a", "b", "c")))


@pytest.mark.parametrize("settings", ALL_SETTINGS)
@pytest.mark.parametrize("waits", [True, False])
def test_tables_with_rates_of_their_own(settings: dict[str, Any], waits: bool) -> None:
    """Each as if it were alone; the last column of a row, the number of its table, stays."""
    rates = {"a": 0.013, "b": 0.5, "c": 0.013}
    config = Config.model_validate(
        {
            "model": {"embedding_dim": 5},
            "row_optimizer": {**settings, "learning_rate": 0.013},
            "tables": {"b": {"learning_rate": 0.5}},
        }
    )
    optimizer = build_optimizer_of_tables(config, TABLES, waits=waits)
    assert isinstance(optimizer, ByTable)
    tables = torch.randint(0, 3, (NUM_ROWS,), generator=torch.Generator().manual_seed(0))
    rows = torch.randn(NUM_ROWS, row_width(config)).abs()
    rows[:, 5:] = torch.from_numpy(initial_tails(config, 3))[tables]
    assert torch.equal(rows[:, -1].long(), tables)
    gradients = torch.randn(NUM_ROWS, 5)
    expected = rows.clone()
    for number, rate in enumerate(rates.values()):
        alone = build_row_optimizer(config.row_optimizer, LearningRate(rate))
        part = expected[tables == number, :-1]
        alone.step(part, gradients[tables == number].clone(), 3)
        expected[tables == number, :-1] = part
    optimizer.step(rows, gradients.clone(), 3)
    assert torch.equal(rows, expected)


def test_equal_rates_need_no_numbers_of_tables() -> None:
    config = Config.model_validate(
        {"training": {"learning_rate": 0.5}, "tables": {"a": {"learning_rate": 0.5, "pooling": "mean"}}}
    )
    assert row_width(config) == config.model.row_dim
    assert not isinstance(build_optimizer_of_tables(config, TABLES), ByTable)


def test_a_narrow_table_has_the_mean_square_of_its_own_columns() -> None:
    config = Config.model_validate(
        {
            "model": {"name": "dcn", "embedding_dim": 4},
            "row_optimizer": {"name": "rowwise_adagrad"},
            "tables": {"b": {"embedding_dim": 2}},
        }
    )
    rows = torch.zeros(2, row_width(config))
    rows[:, 4:] = torch.from_numpy(initial_tails(config, 3))[[0, 1]]
    gradients = torch.tensor([[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 0.0, 0.0]])
    build_optimizer_of_tables(config, TABLES).step(rows, gradients, 1)
    assert rows[:, 4].tolist() == [4, 4]
    assert torch.equal(rows[0, :2], rows[1, :2])
    assert rows[1, 2:4].tolist() == [0, 0]
