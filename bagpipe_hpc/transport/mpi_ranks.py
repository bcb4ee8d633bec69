"""The processes that share an import, over MPI."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.launcher import END_SECONDS
from bagpipe_hpc.transport.collectives import enter_together


class MpiRanks:
    """The Ranks of data/importing/ranks.py.

    Args:
        comm: Used for collectives only.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.rank, self.size = comm.rank, comm.size
        self._comm = comm

    def allgather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """See Ranks."""
        enter_together(self._comm)
        counts = np.empty(self.size, dtype=np.int64)
        self._comm.Allgather(np.array([len(values)], dtype=np.int64), counts)
        everything = np.empty(counts.sum(), values.dtype)
        self._comm.Allgatherv(np.ascontiguousarray(values), [everything, counts.tolist()])
        return np.split(everything, np.cumsum(counts)[:-1])

    def alltoall(self, pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See Ranks."""
        enter_together(self._comm)
        sent = np.array([len(piece) for piece in pieces], dtype=np.int64)
        counts = np.empty(self.size, dtype=np.int64)
        self._comm.Alltoall(sent, counts)
        everything = np.empty(counts.sum(), pieces[0].dtype)
        self._comm.Alltoallv([np.concatenate(pieces), sent.tolist()], [everything, counts.tolist()])
        return np.split(everything, np.cumsum(counts)[:-1])

    def await_end(self) -> None:
        """See Ranks."""
        time.sleep(END_SECONDS)
