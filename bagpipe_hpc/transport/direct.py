"""The reference transport: the rows of each server are an RMA window, and rows move by indexed datatypes.

The protocol is the same, without stages: a server makes rows exist and tells the trainers which ones they need, and the
trainers read and write them in the window itself. It is slower, and stays to compare with (contract tests, benchmarks).
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.transport.base import ServedRows
from bagpipe_hpc.transport.blocks import blocks_by_rank
from bagpipe_hpc.transport.notices import Notices
from bagpipe_hpc.transport.window import RowWindow

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class DirectServer:
    """The side of a server.

    Args:
        comm: Servers first, then trainers.
        num_servers: S.
        window: Holds the rows of this server.
        store: This server's rows; its memory is `window.memory`.
    Communication: construction is collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_servers: int, window: RowWindow, store: ServedRows) -> None:
        self._notices = Notices(comm, num_servers)
        self._window = window
        self._store = store

    def offer(self, plan: ServerPlan) -> None:
        """See ServerEnd."""
        with trace.span("gather", plan.stream_position):
            self._store.materialise(plan.fetch_rows)
        self._window.sync()
        fetches = np.split(plan.fetch_rows, np.cumsum(plan.fetch_counts)[:-1])
        write_backs = np.split(plan.write_back_rows, np.cumsum(plan.write_back_counts)[:-1])
        payloads = [np.concatenate(pair).astype("<i8").tobytes() for pair in zip(fetches, write_backs, strict=True)]
        self._notices.announce_ready(plan.stream_position, payloads)

    def absorb(self, plan: ServerPlan) -> None:
        """See ServerEnd."""
        self._notices.await_written(plan.stream_position)
        self._window.sync()
        self._store.mark_touched(plan.write_back_rows)

    def close(self) -> None:
        """See ServerEnd and TrainerEnd."""
        self._window.free()
        self._notices.free()


class DirectTrainer:
    """The side of a trainer.

    Args:
        comm: Servers first, then trainers.
        num_servers: S.
        window: Has no rows on a trainer.
    Communication: construction is collective over comm.
    """

    def __init__(self, comm: MPI.Intracomm, num_servers: int, window: RowWindow) -> None:
        self._notices = Notices(comm, num_servers)
        self._window = window
        self._write_back_rows: dict[int, list[Int64Array]] = {}

    def fetch(self, plan: TrainerPlan, out: Float32Array) -> None:
        """See TrainerEnd."""
        payloads = self._notices.await_ready(plan.stream_position)
        indices = [np.frombuffer(payload, dtype="<i8") for payload in payloads]
        counts = plan.fetch_counts.tolist()
        self._write_back_rows[plan.stream_position] = [rows[n:] for rows, n in zip(indices, counts, strict=True)]
        with trace.span("get", plan.stream_position):
            for server, block in blocks_by_rank(out, plan.fetch_counts):
                self._window.get_indexed(server, indices[server][: len(block)], block)

    def write_back(self, plan: TrainerPlan, rows: Float32Array) -> None:
        """See TrainerEnd."""
        indices = self._write_back_rows.pop(plan.stream_position)
        for server, block in blocks_by_rank(rows, plan.write_back_counts):
            self._window.put_indexed(server, indices[server], block)
        self._notices.announce_written(plan.stream_position)

    def close(self) -> None:
        """See ServerEnd and TrainerEnd."""
        self._window.free()
        self._notices.free()
