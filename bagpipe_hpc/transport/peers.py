"""Rows between trainers: pushes go one way, their gradients the other way. All counts come from the plan."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.transport.blocks import blocks_by_rank
from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.collectives import duplicate, enter_together
from bagpipe_hpc.waiting import waiting_for

WireArray = NDArray[np.float32 | np.int16]  # int16: the bits of 16-bit floats
Int32Array = NDArray[np.int32]


class PeerExchange:
    """Exchanges blocks of rows between the trainers.

    Args:
        comm: The trainers; the exchange uses a duplicate of it.
    Communication: construction and `free` are collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = duplicate(comm)
        self._row_types: dict[int, MPI.Datatype] = {}  # by bytes of a row

    def swap(
        self, outgoing: WireArray, send_counts: Int32Array, incoming: WireArray, receive_counts: Int32Array
    ) -> None:
        """Send consecutive blocks of outgoing to trainers 0, 1, ..., and receive the blocks of these into incoming.

        Args:
            outgoing: float32 or int16, shape (send_counts.sum(), columns), C-contiguous.
            send_counts: int32, shape (T,); 0 for this trainer.
            incoming: Of the same type, shape (receive_counts.sum(), columns), C-contiguous.
            receive_counts: int32, shape (T,).
        Communication: with every trainer that sends or receives a block; complete on return.
        """
        if len(outgoing) + len(incoming) == 0:
            return
        row = self._row_type(outgoing.itemsize * outgoing.shape[1])
        received = blocks_by_rank(incoming, receive_counts)
        requests = [self._comm.Irecv([block, len(block), row], peer) for peer, block in received]
        sent = blocks_by_rank(outgoing, send_counts)
        requests += [self._comm.Isend([block, len(block), row], peer) for peer, block in sent]
        with waiting_for(lambda: f"trainers {_names(send_counts, receive_counts)}: rows or gradients"):
            wait_all(requests)

    def _row_type(self, row_bytes: int) -> MPI.Datatype:
        # Counts are in rows, so that nothing overflows at 2 GiB.
        if row_bytes not in self._row_types:
            self._row_types[row_bytes] = MPI.BYTE.Create_contiguous(row_bytes).Commit()
        return self._row_types[row_bytes]

    def free(self) -> None:
        for row_type in self._row_types.values():
            row_type.Free()
        enter_together(self._comm)
        self._comm.Free()


def _names(send_counts: Int32Array, receive_counts: Int32Array) -> str:
    return ", ".join(str(peer) for peer in np.flatnonzero(send_counts + receive_counts))
