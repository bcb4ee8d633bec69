"""The sum of dense gradients of a trainer, by the backend that the oracle has chosen (`dense_backend.py`)."""

from __future__ import annotations

from typing import Any

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.trainer.dense_sum import DenseSum, SumOfOne
from bagpipe_hpc.trainer.device.base import Device
from bagpipe_hpc.trainer.horovod_state import horovod_ranks, note_horovod_ranks
from bagpipe_hpc.transport.collectives import all_gather_json
from bagpipe_hpc.transport.mpi import launched_ranks
from bagpipe_hpc.transport.mpi_sum import MpiSum


def make_sum(backend: str, trainers: Any, device: Device) -> DenseSum:
    """Return the sum that all trainers use.

    Args:
        backend: horovod, mpi, nccl, or none if there is nothing to sum.
        trainers: The communicator of the trainers.
        device: The device of this trainer.
    Raises:
        PlatformError: the backend is installed, but cannot be loaded.
    Communication: collective over the trainers.
    """
    match backend:
        case "none":
            return SumOfOne()
        case "mpi":
            return MpiSum(trainers)
        case "horovod":
            return _horovod(trainers, device)
        case "nccl":
            from bagpipe_hpc.trainer.device.gpus import nccl_group
            from bagpipe_hpc.trainer.process_group_sum import ProcessGroupSum

            return ProcessGroupSum(trainers, nccl_group)  # streams wait for NCCL, and the host does not
    raise ValueError(f"no backend {backend!r}")


def _horovod(trainers: Any, device: Device) -> DenseSum:
    try:
        from bagpipe_hpc.trainer.horovod_sum import HorovodSum, start_horovod
    except (ImportError, OSError) as error:
        raise PlatformError(
            f"Horovod is installed, but cannot be loaded: {error}; set dense.backend to mpi, or build Horovod again "
            "with env/setup.sh"
        ) from None
    if horovod_ranks() is None:
        ranks = tuple(all_gather_json(trainers, launched_ranks().rank))
        start_horovod(trainers, on_cpu=device.shares_memory)
        note_horovod_ranks(ranks)
    return HorovodSum(wait_until)
