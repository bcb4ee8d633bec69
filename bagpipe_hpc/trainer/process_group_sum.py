"""A process group of torch as the sum of dense gradients: NCCL on GPUs.

The group belongs to the job: it is made over a store of its own, whose address trainer 0 sends over MPI. The global
state of torch.distributed stays as it is, so a user's own process group and this one do not meet.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.transport.collectives import all_gather_json, broadcast_bytes

START_TIMEOUT = timedelta(seconds=60)

Wait = Callable[[Callable[[], bool]], None]
MakeGroup = Callable[[Any, int, int], Any]

TCPStore: Any = distributed.TCPStore  # type: ignore[attr-defined]


class ProcessGroupSum:
    """A DenseSum by a process group.

    NCCL wants the same order of collectives at all trainers. So a bucket waits in `start` for the buckets that were
    made before it, and goes out with the last of them.

    Args:
        trainers: The communicator of the trainers.
        make_group: Makes the process group of a store, a rank and a size.
        wait: Returns as soon as a condition holds. None: the host does not wait for a sum; later work of the current
            stream of the GPU does.
    Raises:
        PlatformError: the group cannot be made at some trainer. All trainers raise it.
    Communication: construction and `free` are collective over the trainers.
    """

    sums_gpu_memory = True

    def __init__(self, trainers: Any, make_group: MakeGroup, wait: Wait | None = None) -> None:
        self._group, self._store = _made_for_all(trainers, make_group)
        self._wait = wait
        self._buckets: list[GroupBucket] = []
        self._ready: set[int] = set()
        self._next = 0  # the bucket that goes out next

    def bucket(self, buffer: torch.Tensor) -> GroupBucket:
        """See DenseSum."""
        self._buckets.append(GroupBucket(self, len(self._buckets), buffer))
        return self._buckets[-1]

    def start(self, number: int) -> None:
        """Send out this bucket and those after it that have started, if all before it are out."""
        self._ready.add(number)
        while self._next in self._ready:
            self._ready.remove(self._next)
            bucket = self._buckets[self._next]
            bucket.work = self._group.allreduce([bucket.buffer])  # a sum, unless options say otherwise
            self._next = (self._next + 1) % len(self._buckets)

    def wait_for(self, work: Any) -> None:
        """Return as soon as the work is complete, or later work of the current stream waits for it."""
        if self._wait is not None:
            self._wait(lambda: bool(work.is_completed()))
        work.wait()  # raises the error of the work; makes the current stream of a GPU wait

    def free(self) -> None:
        """See DenseSum."""
        self._group = self._store = None


class GroupBucket:
    """A SumBucket."""

    def __init__(self, owner: ProcessGroupSum, number: int, buffer: torch.Tensor) -> None:
        self._owner, self._number, self.buffer = owner, number, buffer
        self.work: Any = None

    def start(self) -> None:
        """See SumBucket."""
        self._owner.start(self._number)

    def finish(self) -> None:
        """See SumBucket."""
        self._owner.wait_for(self.work)


def _made_for_all(trainers: Any, make_group: MakeGroup) -> tuple[Any, Any]:
    """Return the group and its store. Communication: collective over the trainers."""
    rank, size = trainers.rank, trainers.size
    store: Any = None
    address, fault = ("", 0), ""
    if rank == 0:
        try:
            store = TCPStore("0.0.0.0", 0, None, True, START_TIMEOUT, wait_for_workers=False)
            address = (socket.gethostname(), store.port)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
    host, port, fault = json.loads(
        broadcast_bytes(trainers, json.dumps([*address, fault]).encode() if rank == 0 else None)
    )
    group = None
    if not fault:
        try:
            if rank != 0:
                store = TCPStore(host, port, None, False, START_TIMEOUT)
            group = make_group(store, rank, size)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
    for trainer, found in enumerate(all_gather_json(trainers, fault)):
        if found:
            raise PlatformError(
                f"trainer {trainer} cannot make a process group over trainer 0 at {host}:{port}: {found}; "
                "set dense.backend to mpi"
            )
    return group, store
