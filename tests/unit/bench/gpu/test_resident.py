"""The model with all rows resident trains as plain PyTorch does."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.bench.gpu import kernel_bandwidth
from bagpipe_hpc.bench.gpu.case import Cell, model_config
from bagpipe_hpc.bench.gpu.figures import KERNEL_NAMES
from bagpipe_hpc.bench.gpu.kernel_bandwidth import measure_kernels
from bagpipe_hpc.bench.gpu.resident import ResidentModel
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import DeviceMemoryError
from bagpipe_hpc.trainer.device.base import Device
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.device_clock import HostClock
from tests.fake_cuda import FakeCudaDevice, fake_cuda
from tests.interpreted_kernels import load_interpreted_kernels

SCHEMA = Schema(dense=("x",), tables=(TableSchema(name="a", num_embeddings=5), TableSchema(name="b", num_embeddings=3)))
CONFIG = model_config(Cell(6, 4))


def batch() -> Batch:
    random = np.random.default_rng(0)
    ids = np.stack([random.integers(0, 5, 6), random.integers(0, 3, 6)], axis=1)
    return Batch(random.integers(0, 2, 6).astype(np.float32), random.random((6, 1), np.float32), ids, {})


@pytest.fixture(params=["cpu", "triton"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The CPU, and a GPU that is no GPU, with the Triton kernels in Triton's interpreter."""
    if request.param == "cpu":
        yield CpuDevice()
        return
    load_interpreted_kernels()
    from bagpipe_hpc.trainer.device.triton_kernels import TritonKernels

    fake_cuda(monkeypatch)
    monkeypatch.setattr(FakeCudaDevice, "free_bytes", lambda self, trainers: 1 << 30)
    with np.errstate(all="ignore"):
        yield FakeCudaDevice(TritonKernels())


def test_a_step_is_that_of_plain_pytorch(device: Device) -> None:
    model, samples = ResidentModel(CONFIG, SCHEMA, device), batch()
    rows = model.cache.rows.clone().requires_grad_()
    dense = copy.deepcopy(model._model)
    vectors = functional.embedding(torch.from_numpy(samples.ids) + torch.tensor([0, 5]), rows)
    logits = dense(torch.from_numpy(samples.dense), vectors)
    functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(samples.labels)).backward()
    torch.optim.SGD([rows, *dense.parameters()], lr=0.1).step()
    model.train([model.place(samples)], 1)
    torch.testing.assert_close(model.cache.rows, rows.detach())
    for mine, theirs in zip(model._model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_kernel_is_measured(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_bandwidth, "ROUNDS", 1)
    monkeypatch.setattr(kernel_bandwidth, "CALLS", 2)
    model = ResidentModel(CONFIG, SCHEMA, device)
    found = measure_kernels(model, model.place(batch()), HostClock())
    assert tuple(found) == KERNEL_NAMES
    for name, figures in found.items():
        assert figures.num_bytes > 0, name
        assert figures.gigabytes_per_second * figures.milliseconds * 1e6 == pytest.approx(figures.num_bytes)
        assert figures.share_of_copy > 0


def test_rows_that_do_not_fit_are_refused_before_they_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "free_bytes", lambda self, trainers: 1_000)
    with pytest.raises(DeviceMemoryError, match="give a lower --scale, --dims or --batch-sizes"):
        ResidentModel(CONFIG, SCHEMA, CpuDevice())
