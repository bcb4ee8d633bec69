"""The GPUs of this process, and NCCL between them: what there is, before a trainer has chosen its device."""

from __future__ import annotations

from typing import Any

import torch
from torch import cuda, distributed


def num_gpus() -> int:
    """Return how many GPUs torch can use in this process."""
    return cuda.device_count() if cuda.is_available() else 0


def gpu_ids() -> tuple[str, ...]:
    """Return the UUID of each GPU."""
    return tuple(str(cuda.get_device_properties(device).uuid) for device in range(num_gpus()))


def try_gpus() -> str:
    """Compute something on each GPU, and return their names, the version of their library, and the kernels for rows.

    There is one GPU or more.

    Raises what torch raises if a GPU does not work.
    """
    from bagpipe_hpc.trainer.device.gpu_kernels import best_kernels

    for index in range(num_gpus()):
        torch.ones(1, device=f"cuda:{index}").add_(1).item()
    names = ", ".join(cuda.get_device_name(index) for index in range(num_gpus()))
    return f"{num_gpus()} visible: {names}; CUDA {torch.version.cuda}; kernels for rows: {best_kernels().name}"


def give_memory_back() -> None:
    """Give memory of GPUs that tensors of this process no longer use to other processes."""
    if num_gpus():
        cuda.empty_cache()


def nccl_group(store: Any, rank: int, size: int) -> Any:
    """Return a process group of NCCL, for this trainer's current GPU."""
    return distributed.ProcessGroupNCCL(store, rank, size, distributed.ProcessGroupNCCL.Options())


def fault_of_nccl() -> str:
    """Return why NCCL cannot be used in this process; empty if it can."""
    if num_gpus() == 0:
        return "torch finds no GPU"
    if not distributed.is_available() or not distributed.is_nccl_available():
        return f"torch {torch.__version__} is built without NCCL"
    return ""
