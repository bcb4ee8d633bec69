"""Where a trainer computes, and with how much of the node."""

from __future__ import annotations

import os

import torch

from bagpipe_hpc.available_memory import available_bytes

Device = torch.device


def choose_device(local_rank: int) -> Device:
    """GPU `local_rank % device_count` where there is one, else the CPU.

    Args:
        local_rank: This trainer among the trainers of its node.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def free_bytes(device: Device, trainers_on_node: int) -> int:
    """Memory a trainer may count on: the GPU's free memory, or its share of the node's or of the batch job's there."""
    if device.type == "cuda":
        trainers_on_gpu = -(-trainers_on_node // torch.cuda.device_count())
        return torch.cuda.mem_get_info(device)[0] // trainers_on_gpu
    return available_bytes() // trainers_on_node


def set_num_threads(num_threads: int) -> None:
    """Threads of torch's CPU kernels in this process."""
    torch.set_num_threads(num_threads)
