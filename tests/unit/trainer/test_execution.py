"""The ways in which the model runs in training: which passes take them, and that they change no more than they may."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import ExecutionError
from bagpipe_hpc.trainer import execution
from bagpipe_hpc.trainer.code_directory import CACHE
from bagpipe_hpc.trainer.compiled_model import compiled_model
from bagpipe_hpc.trainer.device.base import Device, Forward
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.execution import prepare_forward, sizes_of_passes
from bagpipe_hpc.trainer.torch_state import keeping_torch
from tests.fake_cuda import FakeCudaDevice, fake_cuda
from tests.queued_device import QueuedDevice
from tests.unit.trainer.test_step import (
    DIM,
    KEY_SPACE,
    NUM_DENSE,
    SIZES,
    assert_equal,
    one_thread,
    plain_training,
    planned_training,
)

__all__ = ["one_thread"]  # a fixture: the threads that compute have one thread too
NAMES = [f"d{index}" for index in range(NUM_DENSE)]
SCHEMA = Schema(
    dense=tuple(NAMES),
    tables=tuple(TableSchema(name=f"t{n}", num_embeddings=n) for n in KEY_SPACE.num_embeddings),
)


def config_of(how: str, **training: Any) -> Config:
    settings = {"execution": how, "batch_size": max(SIZES), **training}
    return Config.model_validate({"model": {"embedding_dim": DIM}, "training": settings})


def prepared(how: str, num_trainers: int, model: nn.Module, device: Device, trainer: int, **training: Any) -> Forward:
    config = config_of(how, **training)
    return prepare_forward(config, SCHEMA, model, device, sizes_of_passes(config, trainer, num_trainers), shows=False)


@pytest.mark.parametrize(
    ("num_trainers", "blocks", "sizes"),
    [
        (1, None, [[37]]), (3, None, [[13], [12], [12]]), (40, None, [*[[1]] * 37, *[[]] * 3]),
        (1, 8, [[5, 4]]), (4, 8, [[5, 4]] * 4), (2, 32, [[2, 1]] * 2), (1, 1, [[37]]),
    ],
)  # fmt: skip
def test_sizes_of_full_passes(num_trainers: int, blocks: int | None, sizes: list[list[int]]) -> None:
    """With blocks they do not depend on the number of trainers."""
    config = config_of("eager", batch_size=37, blocks=blocks, threads=1)
    assert [sizes_of_passes(config, trainer, num_trainers) for trainer in range(num_trainers)] == sizes


def test_eager_execution_is_the_module_itself() -> None:
    model = nn.Linear(1, 1)
    assert prepared("eager", 1, model, CpuDevice(), 0) is model


@pytest.mark.parametrize("num_trainers", [1, 2])
@pytest.mark.parametrize("make_device", [partial(QueuedDevice, "late"), FakeCudaDevice])
def test_graphs_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, make_device: Callable[[], Device], num_trainers: int
) -> None:
    fake_cuda(monkeypatch)
    forward = partial(prepared, "graph", num_trainers)
    ours = planned_training(num_trainers, 20, 3, order="while", make_device=make_device, make_forward=forward)
    assert_equal(ours, plain_training(num_trainers))


def test_graphs_of_blocks_change_no_bit() -> None:
    plain = planned_training(1, 0, 0, num_blocks=4)
    forward = partial(prepared, "graph", 2, blocks=4, threads=1)
    ours = planned_training(2, 20, 3, num_blocks=4, order="while", make_device=QueuedDevice, make_forward=forward)
    assert ours.losses == plain.losses
    assert ours.rows.tobytes() == plain.rows.tobytes()


class Compiler:
    """In place of the compiler of torch: counts what it gets, and changes it no further."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.sizes: list[int] = []
        monkeypatch.setenv(CACHE, str(directory))
        monkeypatch.setattr(execution, "compiled_model", partial(compiled_model, backend=self))

    def __call__(self, module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.sizes += {len(each) for each in inputs if each.shape[1:] == (len(SCHEMA.tables), DIM)}
        return module.forward


# torch hides this warning of its own look at an input that is no leaf, unless warnings are errors.
own_look = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@own_look
def test_compiled_code_serves_all_full_batches_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing compiles again: not for small batches, not for evaluations, and not for hooks of gradients."""
    compiler = Compiler(monkeypatch, tmp_path)
    names: list[list[str]] = []

    def forward(model: nn.Module, device: Device, trainer: int) -> Forward:
        state = torch.get_rng_state()
        made = prepared("compiled", 1, model, device, trainer, blocks=2, threads=1)
        names.append(list(model.state_dict()))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.get_rng_state().equal(state)
        return made

    with keeping_torch():
        ours = planned_training(1, 20, 3, order="while", num_blocks=2, make_forward=forward)
    assert not torch.are_deterministic_algorithms_enabled()
    assert compiler.sizes == [4, 3]
    plain = planned_training(1, 0, 0, num_blocks=2)
    np.testing.assert_allclose(ours.rows, plain.rows, rtol=1e-5, atol=1e-6)
    assert names == [list(plain.dense[0])]


@own_look
def test_random_numbers_and_precision_of_compiled_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = Compiler(monkeypatch, tmp_path)
    model = Dropping()
    device = CpuDevice()
    dense, embedded = torch.ones(7, NUM_DENSE), torch.ones(7, len(SCHEMA.tables), DIM, requires_grad=True)
    with keeping_torch():
        forward = prepared("compiled", 1, model, device, 0, precision="bfloat16")
        logits = []
        for run in (model, forward):
            torch.manual_seed(4)
            for _ in range(2):
                with device.autocast(enabled=True):
                    logits.append(run(dense, embedded * 1))
    assert logits[0].equal(logits[2])
    assert logits[1].equal(logits[3])
    assert not logits[0].equal(logits[1])
    assert len(compiler.sizes) == 1


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(DIM, 1), nn.Dropout(0.5)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.drop(self.layer(embedded)).sum((1, 2))
        return logits


def test_a_loop_that_changes_the_mode_of_the_model_gets_its_way() -> None:
    model = Dropping()
    forward = prepared("graph", 1, model, QueuedDevice(), 0)
    dense, embedded = torch.ones(7, NUM_DENSE), torch.ones(7, len(SCHEMA.tables), DIM, requires_grad=True)
    model.drop.eval()
    assert forward(dense, embedded).equal(model(dense, embedded))
    model.drop.train()
    assert not forward(dense, embedded).equal(forward(dense, embedded))


def test_a_model_that_cannot_be_recorded_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(Dropping):
        def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("operation not permitted\nwhen stream is capturing" + "." * 1000)

    fault = (
        "training.execution = 'graph': recording the model for 7 samples failed: RuntimeError: operation not permitted "
        "when stream is capturing..."
    )
    with pytest.raises(ExecutionError, match=re.escape(fault)) as caught:
        prepared("graph", 1, Waiting(), QueuedDevice(), 0)
    assert str(caught.value).endswith("...; set training.execution to eager, or change the model")
    assert len(str(caught.value)) < 800

    class Large(Dropping):
        def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):  # the trainer says what uses the memory
        prepared("graph", 1, Large(), QueuedDevice(), 0)


def test_what_goes_on_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    config = config_of("graph")
    prepare_forward(config, SCHEMA, Dropping(), QueuedDevice(), [7, 3], shows=True)
    assert capfd.readouterr().err == (
        "recording the model for 7 samples (training.execution=graph)\n"
        "recording the model for 3 samples (training.execution=graph)\n"
    )
