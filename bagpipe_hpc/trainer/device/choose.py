"""The choice of the device of a trainer, and the number of CPU threads."""

from __future__ import annotations

import torch

from bagpipe_hpc.trainer.device import gpus
from bagpipe_hpc.trainer.device.base import Device
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.names import DeviceName


def choose_device(setting: DeviceName, local_rank: int, exchange: str = "host") -> Device:
    """Return the device of a trainer.

    auto is GPU `local_rank % number of GPUs` if the host has a GPU, else the CPU. A GPU becomes the current device of
    torch, which then uses deterministic algorithms only.

    Args:
        setting: The setting training.device.
        local_rank: The rank of this trainer among the trainers of its host.
        exchange: How rows get from trainer to trainer. device: MPI reads and writes the memory of GPUs.
    Raises:
        PlatformError: the setting is gpu, and torch finds no GPU.
    """
    if setting == "cpu" or (setting == "auto" and not finds_gpu()):
        return CpuDevice()
    from bagpipe_hpc.trainer.device.cuda import CudaDevice

    return CudaDevice.of_rank(local_rank, exposes_memory=exchange == "device")


def finds_gpu() -> bool:
    """Return whether torch can use a GPU in this process."""
    return gpus.num_gpus() > 0


def fault_of_gpu() -> str:
    """Return why this process cannot use a GPU; empty if it can."""
    return "" if finds_gpu() else f"torch {torch.__version__} finds no GPU"


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads of torch's CPU kernels in this process."""
    torch.set_num_threads(num_threads)
