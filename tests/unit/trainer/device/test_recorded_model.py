"""A recorded model computes what the model computes, to the bit: logits, gradients and random numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.errors import ExecutionError
from bagpipe_hpc.trainer.device.base import Device, Forward, Recording
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.recorded_model import RecordedModel
from bagpipe_hpc.trainer.models import build_model
from tests.fake_cuda import FakeCuda, FakeCudaDevice, fake_cuda
from tests.recorded_graph import EagerRecording

SIZE, NUM_DENSE, NUM_TABLES, DIM = 6, 3, 4, 5
CPU = CpuDevice()


class Own(nn.Module):
    """Drops, has a parameter that it does not use and one that is frozen, and uses a weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(DIM), requires_grad=False)
        self.layer = nn.Linear(DIM, DIM)
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(self.drop(torch.relu(self.layer(embedded)))) * self.frozen
        logits: torch.Tensor = hidden.sum((1, 2)) * self.scale + self.drop(dense).sum(1)
        return logits


def dlrm() -> nn.Module:
    return build_model(ModelConfig(embedding_dim=DIM, bottom_mlp=(7,), top_mlp=(6,)), NUM_DENSE, NUM_TABLES, seed=1)


def recorded(model: nn.Module, recording: Recording, in_bfloat16: bool = False, device: Device = CPU) -> Forward:
    def run(dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        with device.autocast(enabled=in_bfloat16):
            logits: torch.Tensor = model(dense, embedded)
        return logits

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dense, embedded = torch.zeros(SIZE, NUM_DENSE), torch.zeros(SIZE, NUM_TABLES, DIM)
    return RecordedModel(recording, run, trained, dense.to(device.torch_device), embedded.to(device.torch_device))


def trained(model: nn.Module, forward: Forward, in_bfloat16: bool = False, device: Device = CPU) -> list[torch.Tensor]:
    """Everything that three steps compute. The logits of all steps are looked at in the end."""
    torch.manual_seed(2)
    seen: list[torch.Tensor] = []
    logits_of_all = []
    for _ in range(3):
        embedded = torch.randn(SIZE, NUM_TABLES, DIM, device=device.torch_device, requires_grad=True)
        with device.autocast(enabled=in_bfloat16):
            logits = forward(torch.randn(SIZE, NUM_DENSE, device=device.torch_device), embedded * 2)
        logits_of_all.append(logits)
        logits.float().sigmoid().square().sum().backward()
        assert embedded.grad is not None
        seen.append(embedded.grad)
        with torch.no_grad():
            for parameter in model.parameters():
                seen.append(torch.zeros(0) if parameter.grad is None else parameter.grad.clone())
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-0.1)
                parameter.grad = None
    return [*seen, *logits_of_all]


def check_bits(
    make: Callable[[], nn.Module], in_bfloat16: bool, device: Device, recording: Callable[[], Recording]
) -> None:
    torch.manual_seed(1)
    plain, model = make(), make()
    model.load_state_dict(plain.state_dict())
    plain, model = plain.to(device.torch_device), model.to(device.torch_device)
    theirs = trained(plain, plain, in_bfloat16, device)
    forward = recorded(model, recording(), in_bfloat16, device)
    ours = trained(model, forward, in_bfloat16, device)
    assert len(ours) == len(theirs)
    assert all(mine.equal(other) for mine, other in zip(ours, theirs, strict=True))
    assert all(torch.isfinite(each).all() for each in ours)


@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("make", [dlrm, Own])
def test_the_bits_of_the_model(make: Callable[[], nn.Module], in_bfloat16: bool) -> None:
    check_bits(make, in_bfloat16, CPU, EagerRecording)


def test_a_loop_that_computes_logits_twice_must_use_the_second() -> None:
    model = dlrm()
    forward = recorded(model, EagerRecording())
    first, second = (forward(torch.ones(SIZE, NUM_DENSE), torch.ones(SIZE, NUM_TABLES, DIM)) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"batch.logits\(\) was called again"):
        first.sum().backward()
    second.sum().backward()


def test_autograd_keeps_nothing_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks of parameters run in the stream in which autograd has first seen the parameter."""
    fake_cuda(monkeypatch)
    forward = recorded(dlrm(), FakeCudaDevice().recording())
    assert [what for _, what, _ in FakeCuda.log] == ["waits for"] * 2
    assert "default stream" in FakeCuda.log[0][2]
    assert FakeCuda.log[1][0] == "default stream"
    assert isinstance(forward, RecordedModel)
    assert forward._logits.grad_fn is None


def test_a_cpu_records_nothing() -> None:
    with pytest.raises(ExecutionError, match=r"training.execution is graph, but this trainer computes on the CPU"):
        CpuDevice().recording()
