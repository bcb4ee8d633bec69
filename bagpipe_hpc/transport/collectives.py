"""Collectives that neither spin nor pickle, over MPI or in memory.

A rank that waits inside one of MPI's own collectives keeps a core busy. So ranks first enter together: each waits,
asleep between polls, until all have come. mpi4py's own collectives of objects pickle; these move bytes.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.transport.byte_messages import Comm, wait_all
from bagpipe_hpc.transport.memory_comm import MemoryComm

ROOT = 0


def enter_together(comm: Comm) -> None:
    """Return once all ranks have called this. It is a barrier, and stands before every collective that may wait long.

    Communication: collective over comm.
    """
    if not isinstance(comm, MemoryComm):
        wait_all([comm.Ibarrier()])
    else:
        comm.Barrier()


def duplicate(comm: MPI.Intracomm) -> MPI.Intracomm:
    """Return a new communicator of the same ranks. Communication: collective over comm."""
    enter_together(comm)
    return comm.Dup()


def gather_bytes(comm: Comm, content: bytes) -> list[bytes] | None:
    """Return what all ranks give, by rank, at rank 0; None at the others. Communication: collective over comm."""
    if isinstance(comm, MemoryComm):
        return comm.gather(content)
    enter_together(comm)
    sizes = np.empty(comm.size, dtype=np.int64)
    comm.Allgather(np.array([len(content)], dtype=np.int64), sizes)
    received = np.empty(sizes.sum() if comm.rank == ROOT else 0, dtype=np.uint8)
    sent = np.frombuffer(content, dtype=np.uint8)
    comm.Gatherv(sent, [received, sizes.tolist()] if comm.rank == ROOT else None, ROOT)
    return _cut(received, sizes) if comm.rank == ROOT else None


def all_gather_bytes(comm: Comm, content: bytes) -> list[bytes]:
    """Return what all ranks give, by rank, at every rank. Communication: collective over comm."""
    if isinstance(comm, MemoryComm):
        return comm.allgather(content)
    enter_together(comm)
    sizes = np.empty(comm.size, dtype=np.int64)
    comm.Allgather(np.array([len(content)], dtype=np.int64), sizes)
    received = np.empty(sizes.sum(), dtype=np.uint8)
    comm.Allgatherv(np.frombuffer(content, dtype=np.uint8), [received, sizes.tolist()])
    return _cut(received, sizes)


def all_gather_json(comm: Comm, value: Any) -> list[Any]:
    """Return what all ranks give, by rank, at every rank. JSON makes tuples lists.

    Communication: collective over comm.
    """
    return [json.loads(content) for content in all_gather_bytes(comm, json.dumps(value).encode())]


def broadcast_bytes(comm: Comm, content: bytes | None) -> bytes:
    """Return what rank 0 gives, at every rank; the others give None. Communication: collective over comm."""
    if isinstance(comm, MemoryComm):
        value: bytes = comm.bcast(content)
        return value
    enter_together(comm)
    size = np.array([len(content or b"")], dtype=np.int64)
    comm.Bcast(size, ROOT)
    buffer = np.frombuffer(content or b"", dtype=np.uint8) if comm.rank == ROOT else np.empty(size[0], dtype=np.uint8)
    comm.Bcast([buffer, MPI.BYTE], ROOT)
    return buffer.tobytes()


def _cut(content: NDArray[np.uint8], sizes: NDArray[np.int64]) -> list[bytes]:
    return [piece.tobytes() for piece in np.split(content, np.cumsum(sizes)[:-1])]
