"""Staged one-sided transfer: one contiguous Get or Put per server, trainer and iteration.

Each server has two windows, a ring of P + 1 fetch stages and one of P + 1 write-back stages. The plan says where in a
ring each (trainer, iteration) has its stage. So the stages of all trainers in an iteration are packed, and the server
gathers or scatters them in one call. Rings only grow: the plan that first needs a larger ring makes every rank allocate
it, at the same place in its stream of plans (`_StageRings.prepare`). Earlier stages stay in the old ring until they are
emptied.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.transport.base import ServedRows
from bagpipe_hpc.transport.blocks import blocks_by_rank
from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.notices import Notices
from bagpipe_hpc.transport.window import RowWindow

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


class _StageRings:
    """The windows of stages in both directions, by the number of rows of a ring slot."""

    def __init__(self, comm: MPI.Intracomm, num_stages: int, row_width: int, is_server: bool) -> None:
        self._comm, self._row_width = comm, row_width
        self._num_stages = num_stages if is_server else 0
        self.fetch: dict[int, RowWindow] = {}
        self.write_back: dict[int, RowWindow] = {}

    def prepare(self, plan: ServerPlan | TrainerPlan) -> None:
        """Allocate the rings that this plan needs. Communication: collective if a ring is new."""
        for rings, rows in ((self.fetch, plan.fetch_ring_rows), (self.write_back, plan.write_back_ring_rows)):
            if rows not in rings:
                rings[rows] = RowWindow(self._comm, self._num_stages * rows, self._row_width)

    def free(self) -> None:
        # Rings double, so all earlier ones together are no larger than the last: they are kept until the end.
        for rings in (self.fetch, self.write_back):
            for rows in sorted(rings):
                rings.pop(rows).free()


class StagedServer:
    """The side of a server.

    Args:
        comm: Servers first, then trainers. The windows are made on it; notices go over duplicates of it.
        num_servers: S.
        num_stages: P + 1.
        store: This server's rows.
    Communication: construction is collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_servers: int, num_stages: int, store: ServedRows) -> None:
        self._notices = Notices(comm, num_servers)
        self._rings = _StageRings(comm, num_stages, store.row_width, is_server=True)
        self._store = store

    def offer(self, plan: ServerPlan) -> None:
        """See ServerEnd."""
        self._rings.prepare(plan)
        window = self._rings.fetch[plan.fetch_ring_rows]
        first, size = int(plan.fetch_offsets[0]), len(plan.fetch_rows)
        with trace.span("gather", plan.stream_position):
            self._store.gather(plan.fetch_rows, window.memory[first : first + size], self._notices.progress)
        window.sync()  # the gather is visible to the Gets that the announcement allows
        self._notices.announce_ready(plan.stream_position)

    def absorb(self, plan: ServerPlan) -> None:
        """See ServerEnd."""
        self._notices.await_written(plan.stream_position)
        window = self._rings.write_back[plan.write_back_ring_rows]
        window.sync()  # the Puts that were announced are visible to the scatter
        first, size = int(plan.write_back_offsets[0]), len(plan.write_back_rows)
        with trace.span("scatter", plan.stream_position):
            self._store.scatter(plan.write_back_rows, window.memory[first : first + size], self._notices.progress)

    def close(self) -> None:
        """See ServerEnd and TrainerEnd."""
        self._rings.free()
        self._notices.free()


class StagedTrainer:
    """The side of a trainer.

    Args:
        comm: Servers first, then trainers.
        num_servers: S.
        num_stages: P + 1.
        row_width: float32 columns of a row.
    Communication: construction is collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_servers: int, num_stages: int, row_width: int) -> None:
        self._notices = Notices(comm, num_servers)
        self._rings = _StageRings(comm, num_stages, row_width, is_server=False)

    def fetch(self, plan: TrainerPlan, out: Float32Array) -> None:
        """See TrainerEnd."""
        self._rings.prepare(plan)
        self._notices.await_ready(plan.stream_position)
        window = self._rings.fetch[plan.fetch_ring_rows]
        with trace.span("get", plan.stream_position):
            pieces = blocks_by_rank(out, plan.fetch_counts)
            wait_all([window.get(server, int(plan.fetch_offsets[server]), piece) for server, piece in pieces])

    def write_back(self, plan: TrainerPlan, rows: Float32Array) -> None:
        """See TrainerEnd."""
        window = self._rings.write_back[plan.write_back_ring_rows]
        pieces = list(blocks_by_rank(rows, plan.write_back_counts))
        wait_all([window.put(server, int(plan.write_back_offsets[server]), piece) for server, piece in pieces])
        for server, _ in pieces:
            window.flush(server)
        self._notices.announce_written(plan.stream_position)

    def close(self) -> None:
        """See ServerEnd and TrainerEnd."""
        self._rings.free()
        self._notices.free()
