"""Rows between trainers: pushes go one way, their gradients the other way. The plan says how many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.collectives import duplicate, enter_together
from bagpipe_hpc.waiting import waiting_for

WireArray = NDArray[np.float32 | np.int16]  # int16: the bits of 16-bit floats
# A WireArray, or such a tensor of torch in memory that MPI can read and write.
Block = Any
Blocks = Iterable[tuple[int, Block]]


class Swap:
    """A swap under way.

    Args:
        requests: Of all blocks.
        blocks: Trainers and blocks. They stay in memory until the swap has finished.
    """

    def __init__(self, requests: list[MPI.Request], blocks: list[tuple[int, Block]]) -> None:
        self._requests, self._blocks = requests, blocks

    def finish(self) -> None:
        """Wait until all blocks have left and arrived. Communication: complete on return."""
        if self._requests:
            with waiting_for(lambda: f"trainers {_names(self._blocks)}: rows or gradients"):
                wait_all(self._requests)


class PeerExchange:
    """Exchanges blocks of rows between the trainers.

    Args:
        comm: The trainers; the exchange uses a duplicate of it.
    Communication: construction and `free` are collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = duplicate(comm)
        self._row_types: dict[int, MPI.Datatype] = {}  # by bytes of a row

    def begin(self, outgoing: Blocks, incoming: Blocks) -> Swap:
        """Begin to send blocks of rows to other trainers, and to receive blocks from others.

        The caller does not touch the blocks until the swap has finished. All trainers begin their swaps in the same
        order.

        Args:
            outgoing: Trainers and their blocks, float32 or int16, shape (n, columns), C-contiguous, n > 0; at most one
                for each trainer. Tensors are in memory that MPI can read and write.
            incoming: Trainers, and what gets the blocks that they send, of the same shape and dtype as these.
        Communication: with all these trainers, from here to the return of `Swap.finish`.
        """
        sent, received = list(outgoing), list(incoming)
        requests = [self._comm.Irecv(self._message(block), peer) for peer, block in received]
        requests += [self._comm.Isend(self._message(block), peer) for peer, block in sent]
        return Swap(requests, sent + received)

    def _message(self, block: Block) -> Any:
        # A tensor goes to MPI by its address. mpi4py would ask it for one, and torch would let streams wait for that.
        memory = block if isinstance(block, np.ndarray) else MPI.buffer.fromaddress(block.data_ptr(), block.nbytes)
        return [memory, len(block), self._row_type(block)]

    def _row_type(self, block: Block) -> MPI.Datatype:
        row_bytes = block.itemsize * block.shape[1]
        # Counts are in rows, so that nothing overflows at 2 GiB.
        if row_bytes not in self._row_types:
            self._row_types[row_bytes] = MPI.BYTE.Create_contiguous(row_bytes).Commit()
        return self._row_types[row_bytes]

    def free(self) -> None:
        for row_type in self._row_types.values():
            row_type.Free()
        enter_together(self._comm)
        self._comm.Free()


def _names(blocks: list[tuple[int, Block]]) -> str:
    return ", ".join(str(peer) for peer in sorted({peer for peer, _ in blocks}))
