"""The choice of the kernels on rows of a GPU."""

from __future__ import annotations

from bagpipe_hpc.trainer.device.base import RowKernels
from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels


def best_kernels() -> RowKernels:
    """Return the kernels in Triton if it can be imported, otherwise those in operations of torch."""
    try:
        from bagpipe_hpc.trainer.device.triton_kernels import TritonKernels
    except ImportError:
        return TorchKernels()
    return TritonKernels()
