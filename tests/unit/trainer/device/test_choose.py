"""The device that the setting training.device names."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.device import cuda, gpus
from bagpipe_hpc.trainer.device.choose import choose_device, fault_of_gpu
from bagpipe_hpc.trainer.device.cpu import CpuDevice


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "num_gpus", lambda: 0)
    assert isinstance(choose_device("auto", 0), CpuDevice)
    assert isinstance(choose_device("cpu", 0), CpuDevice)
    assert "finds no GPU" in fault_of_gpu()
    with pytest.raises(PlatformError, match=r"training.device is gpu, but torch finds no GPU: set training.device to"):
        choose_device("gpu", 0)


def test_trainers_of_a_host_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(gpus, "num_gpus", lambda: 2)
    exposing: list[bool] = []

    def of_rank(rank: int, *, exposes_memory: bool) -> None:
        chosen.append(rank % gpus.num_gpus())
        exposing.append(exposes_memory)

    monkeypatch.setattr(cuda.CudaDevice, "of_rank", of_rank)
    ranks = (("auto", 0, "host"), ("auto", 1, "device"), ("gpu", 2, "none"), ("gpu", 3, "device"))
    for setting, rank, exchange in ranks:
        choose_device("gpu" if setting == "gpu" else "auto", rank, exchange)
    assert chosen == [0, 1, 0, 1]
    assert exposing == [False, True, False, True]
    assert isinstance(choose_device("cpu", 0), CpuDevice)
    assert fault_of_gpu() == ""
