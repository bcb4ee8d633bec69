"""Rows between trainers: pushes one way, gradients the other. All counts come from the plan."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.transport.polite import wait_all

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


class PeerExchange:
    """Point-to-point blocks of rows among the trainers.

    Args:
        comm: The trainers; duplicated.
    Communication: construction and `free` are collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm.Dup()
        self.bytes_sent = 0

    def swap(
        self, outgoing: Float32Array, send_counts: Int32Array, incoming: Float32Array, receive_counts: Int32Array
    ) -> None:
        """Send consecutive blocks of outgoing to trainers 0, 1, ...; receive theirs into incoming.

        Args:
            outgoing: float32, shape (send_counts.sum(), columns), C-contiguous.
            send_counts: int32, shape (T,); 0 for this trainer.
            incoming: float32, shape (receive_counts.sum(), columns), C-contiguous.
            receive_counts: int32, shape (T,).
        Communication: with every trainer that has a block for this one or gets one; complete on return.
        """
        if len(outgoing) + len(incoming) == 0:
            return
        row = MPI.FLOAT.Create_contiguous(outgoing.shape[1]).Commit()
        requests = []
        for peer, block in enumerate(_blocks(incoming, receive_counts)):
            if len(block):
                requests.append(self._comm.Irecv([block, len(block), row], peer))
        for peer, block in enumerate(_blocks(outgoing, send_counts)):
            if len(block):
                requests.append(self._comm.Isend([block, len(block), row], peer))
        wait_all(requests)
        row.Free()
        self.bytes_sent += outgoing.nbytes

    def free(self) -> None:
        self._comm.Free()


def _blocks(rows: Float32Array, counts: Int32Array) -> list[Float32Array]:
    return np.split(rows, np.cumsum(counts)[:-1])
