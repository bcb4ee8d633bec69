"""Horovod as the sum of dense gradients.

Horovod keeps one state per process. A process can start it once, for one set of trainers: a second start after a
shutdown crashes. `trainer/make_sum.py` therefore starts it at most once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch

from bagpipe_hpc.rank_thread import naming_new_threads

Wait = Callable[[Callable[[], bool]], None]


# In every cycle, Horovod's thread of each trainer meets those of the others, also if there is nothing to sum, and keeps
# a core busy until all are there. On the CPU that core computes. A longer cycle would delay short iterations.
_CPU_CYCLE_MS, _GPU_CYCLE_MS = "1", "0.2"


def start_horovod(trainers: Any, *, on_cpu: bool) -> None:
    """Start Horovod on a communicator.

    Args:
        trainers: The trainers.
        on_cpu: Whether the trainers compute on CPUs. A cycle of Horovod is then longer, unless HOROVOD_CYCLE_TIME says
            how long it is.
    Communication: collective over the trainers.
    """
    # init reads these variables: Horovod sums each tensor alone, and does not wait for further tensors to fuse.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    os.environ.setdefault("HOROVOD_CYCLE_TIME", _CPU_CYCLE_MS if on_cpu else _GPU_CYCLE_MS)
    with naming_new_threads("horovod"):
        hvd.init(comm=trainers)


class HorovodSum:
    """A DenseSum by Horovod. Horovod fuses no tensors, so MPI's order of summation depends on their sizes only.

    Args:
        wait: Returns as soon as a condition holds. Horovod's own wait keeps a core busy.
    """

    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        self._num_buckets = 0

    @property
    def sums_gpu_memory(self) -> bool:
        """Whether Horovod was built with NCCL. Without NCCL it sums in host memory."""
        return bool(hvd.nccl_built())

    def bucket(self, buffer: torch.Tensor) -> HorovodBucket:
        """See DenseSum."""
        self._num_buckets += 1
        return HorovodBucket(f"dense_gradients_{self._num_buckets - 1}", buffer, self._wait)

    def free(self) -> None:
        """See DenseSum. Horovod keeps running, for later jobs of this process. Communication: none."""


class HorovodBucket:
    """A SumBucket. Horovod matches the buffers of the trainers by name."""

    def __init__(self, name: str, buffer: torch.Tensor, wait: Wait) -> None:
        self._name, self._buffer, self._wait = name, buffer, wait
        self._allreduce: int = -1

    def start(self) -> None:
        """See SumBucket."""
        self._allreduce = hvd.allreduce_async_(self._buffer, op=hvd.Sum, name=self._name)

    def finish(self) -> None:
        """See SumBucket."""
        self._wait(lambda: bool(hvd.poll(self._allreduce)))
        hvd.synchronize(self._allreduce)
