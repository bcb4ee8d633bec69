"""Horovod as the sum of dense gradients.

Horovod keeps one state per process: it is started once, with one set of trainers, and does not survive a shutdown that
is followed by another start. `trainer/choose_sum.py` sees to that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch

Wait = Callable[[Callable[[], bool]], None]


def start_horovod(trainers: Any) -> None:
    """Start Horovod on a communicator. Communication: collective over it."""
    # Horovod reads these in init: one tensor at a time, no waiting for more to fuse.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.2")
    hvd.init(comm=trainers)


class HorovodSum:
    """See DenseSum. Horovod fuses nothing, so the order of summation is MPI's for each size.

    Args:
        wait: Waits until a condition holds; Horovod's own wait spins.
    """

    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        self._under_way: dict[str, int] = {}

    @property
    def sums_gpu_memory(self) -> bool:
        """With NCCL; without, Horovod sums in host memory, and is handed host memory."""
        return bool(hvd.nccl_built())

    def start(self, name: str, buffer: torch.Tensor) -> None:
        """See DenseSum."""
        self._under_way[name] = hvd.allreduce_async_(buffer, op=hvd.Sum, name=name)

    def finish(self, name: str) -> None:
        """See DenseSum."""
        allreduce = self._under_way.pop(name)
        self._wait(lambda: bool(hvd.poll(allreduce)))
        hvd.synchronize(allreduce)

    def free(self) -> None:
        """See DenseSum. Horovod stays as it is, for later jobs of this process."""
