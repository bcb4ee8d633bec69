"""Collecting the trained model at the oracle, piece by piece, in canonical order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.digest import merge_rows
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.sharding import Sharding
from bagpipe_hpc.topology import ORACLE_RANK, Topology
from bagpipe_hpc.transport.polling import receive_bytes
from bagpipe_hpc.waiting import note_step, waiting_for

ROWS_PER_PIECE = 1 << 16  # local rows of one server

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


def send_touched_rows(world: MPI.Intracomm, store: RowStore) -> None:
    """Server: send every touched row to the oracle. Communication: with the oracle."""
    for start in _starts(store.sharding):
        keys, rows = store.touched(start, ROWS_PER_PIECE)
        with waiting_for("the oracle: to take the model"):
            world.Send([keys.tobytes() + rows.tobytes(), MPI.BYTE], ORACLE_RANK)
        note_step()


def receive_touched_rows(
    world: MPI.Intracomm, topology: Topology, sharding: Sharding, row_width: int
) -> Iterator[Rows]:
    """Oracle: touched rows of all servers in ascending key order. Communication: with every server."""
    for _ in _starts(sharding):
        # Local rows [a, b) of all servers are keys [a * S, b * S): merging piece by piece keeps the order.
        yield merge_rows(_receive(world, topology, rank, row_width) for rank in topology.server_ranks)


def _receive(world: MPI.Intracomm, topology: Topology, rank: int, row_width: int) -> Rows:
    with waiting_for(f"{topology.name_of(rank)}: its part of the model"):
        message = receive_bytes(world, rank)
    note_step()
    return _decode(message, row_width)


def _starts(sharding: Sharding) -> range:
    return range(0, sharding.num_local_rows(0), ROWS_PER_PIECE)


def _decode(message: bytearray, row_width: int) -> Rows:
    num_rows = len(message) // (8 + 4 * row_width)
    keys = np.frombuffer(message, dtype=np.int64, count=num_rows)
    rows = np.frombuffer(message, dtype=np.float32, offset=8 * num_rows).reshape(num_rows, row_width)
    return keys, rows
