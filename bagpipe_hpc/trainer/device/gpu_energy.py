"""The energy counter of a GPU, by NVML (the package nvidia-ml-py), where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bagpipe_hpc.trainer.device.base import Device


def energy_counter(device: Device) -> tuple[str, Callable[[], float]] | None:
    """Return the unique name of the GPU of this trainer, and what returns its counter in joules.

    Returns:
        None if the device is no GPU, NVML is not installed, or the GPU has no such counter.
    Communication: none.
    """
    if device.shares_memory or not torch.cuda.is_available():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML has no common class for what fails: no package, no driver, another version
        return None
    name = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    return counter_of(pynvml, name)


def counter_of(nvml: Any, name: str) -> tuple[str, Callable[[], float]] | None:
    """Return the counter of the GPU with this name.

    Args:
        nvml: The module pynvml.
        name: GPU- and its unique number.
    """

    def joules() -> float:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(found)) / 1e3  # of millijoules

    try:
        found = nvml.nvmlDeviceGetHandleByUUID(name)
        joules()
    except nvml.NVMLError:
        return None
    return name, joules
