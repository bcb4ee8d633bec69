"""The counter of a GPU, with a stand-in for NVML."""

from __future__ import annotations

from types import SimpleNamespace

from bagpipe_hpc.trainer.device.choose import choose_device
from bagpipe_hpc.trainer.device.gpu_energy import counter_of, energy_counter


class NVMLError(Exception):
    """As that of NVML."""


def nvml(millijoules: int | None) -> SimpleNamespace:
    def read(found: str) -> int:
        assert found == "found GPU-1"
        if millijoules is None:
            raise NVMLError
        return millijoules

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetHandleByUUID=lambda name: f"found {name}",
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_a_gpu_with_a_counter() -> None:
    found = counter_of(nvml(2500), "GPU-1")
    assert found is not None
    assert (found[0], found[1]()) == ("GPU-1", 2.5)


def test_a_gpu_without_one() -> None:
    assert counter_of(nvml(None), "GPU-1") is None


def test_a_cpu_has_none() -> None:
    assert energy_counter(choose_device("cpu", 0)) is None
