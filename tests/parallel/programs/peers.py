"""On three ranks: blocks of rows between trainers, of all sizes and of none."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.transport.blocks import blocks_by_rank
from bagpipe_hpc.transport.peers import PeerExchange

NUM_ROUNDS = 40


def counts_of(round_index: int, size: int) -> NDArray[np.int32]:
    """Rows from each trainer (first axis) to each other one; int32, shape (T, T)."""
    random = np.random.default_rng(round_index)
    most = (1, 4, 3_000)[round_index % 3]
    counts = random.integers(0, most + 1, (size, size), dtype=np.int32)
    counts[random.random((size, size)) < 0.4] = 0
    if round_index == 0:
        counts[:] = 0  # nobody has anything for anybody
    if round_index == 1:
        counts[:, 1:] = 0  # only trainer 0 gets anything, trainer 1 nothing at all
        counts[1:2] = 0
    np.fill_diagonal(counts, 0)
    return counts


def block(sender: int, receiver: int, round_index: int, num_rows: int, columns: int) -> NDArray[Any]:
    """float32, and in every other round int16: the bits of 16-bit floats."""
    rows = np.arange(num_rows * columns).reshape(num_rows, columns) + 1_000 * sender + 10_000 * receiver + round_index
    return rows.astype((np.float32, np.int16)[round_index % 2])


class Elsewhere:
    """Rows in memory of their own, as a tensor shows them: MPI gets their address."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows, self.shape, self.itemsize, self.nbytes = rows, rows.shape, rows.itemsize, rows.nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Elsewhere:
        return Elsewhere(self.rows[part])

    def data_ptr(self) -> int:
        return self.rows.ctypes.data


def main() -> None:
    comm = MPI.COMM_WORLD
    exchange, me = PeerExchange(comm), comm.rank
    for round_index in range(NUM_ROUNDS):
        counts, columns = counts_of(round_index, comm.size), (1, 3, 16)[round_index % 3]
        to = [block(me, peer, round_index, counts[me, peer], columns) for peer in range(comm.size)]
        expected = [block(peer, me, round_index, counts[peer, me], columns) for peer in range(comm.size)]
        outgoing = np.concatenate(to)
        incoming = np.full((counts[:, me].sum(), columns), -1, dtype=outgoing.dtype)
        sent, landing = (Elsewhere(rows) if round_index % 4 > 1 else rows for rows in (outgoing, incoming))
        exchange.begin(blocks_by_rank(sent, counts[me]), blocks_by_rank(landing, counts[:, me])).finish()  # type: ignore[arg-type]
        outgoing.fill(-1)  # complete on return
        np.testing.assert_array_equal(incoming, np.concatenate(expected), f"round {round_index}")
    exchange.free()


if __name__ == "__main__":
    main()
