"""The device that a trainer computes on, its free memory, and the number of CPU threads."""

from __future__ import annotations

import os

import torch

from bagpipe_hpc.available_memory import available_bytes

Device = torch.device


def choose_device(local_rank: int) -> Device:
    """Return GPU `local_rank % device_count` if the host has a GPU, else the CPU.

    If the result is a GPU, it becomes the current device, and torch uses deterministic algorithms only.

    Args:
        local_rank: The rank of this trainer among the trainers of its host.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def free_bytes(device: Device, trainers_on_node: int) -> int:
    """Return the bytes of memory that a trainer may use: its part of the free memory.

    On a GPU this is the free memory of the GPU, divided by the trainers that use it. On the CPU it is the memory that
    the batch job may still use on this host, divided by the trainers of the host.
    """
    if device.type == "cuda":
        trainers_on_gpu = -(-trainers_on_node // torch.cuda.device_count())
        return torch.cuda.mem_get_info(device)[0] // trainers_on_gpu
    return available_bytes() // trainers_on_node


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads of torch's CPU kernels in this process."""
    torch.set_num_threads(num_threads)
