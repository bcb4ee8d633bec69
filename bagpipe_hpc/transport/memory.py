"""The row transport in memory: queues between threads of one process, without MPI."""

from __future__ import annotations

from queue import Queue

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc import trace
from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.threaded_job import take
from bagpipe_hpc.transport.base import ServedRows
from bagpipe_hpc.waiting import waiting_for

Float32Array = NDArray[np.float32]


class MemoryLink:
    """Queues between every server and every trainer. A wait ends when the job is over (`threaded_job.py`)."""

    def __init__(self, num_servers: int, num_trainers: int) -> None:
        self.num_servers, self.num_trainers = num_servers, num_trainers
        self.offered: dict[tuple[int, int], Queue[Float32Array]] = {}
        self.written: dict[tuple[int, int], Queue[Float32Array]] = {}
        for server in range(num_servers):
            for trainer in range(num_trainers):
                self.offered[server, trainer] = Queue()
                self.written[server, trainer] = Queue()


class MemoryServer:
    """The side of a server."""

    def __init__(self, link: MemoryLink, server: int, store: ServedRows) -> None:
        self._link, self._server, self._store = link, server, store

    def offer(self, plan: ServerPlan) -> None:
        """See ServerEnd."""
        rows = np.empty((len(plan.fetch_rows), self._store.row_width), dtype=np.float32)
        with trace.span("gather", plan.stream_position):
            self._store.gather(plan.fetch_rows, rows)
        for trainer, piece in enumerate(np.split(rows, np.cumsum(plan.fetch_counts)[:-1])):
            self._link.offered[self._server, trainer].put(piece)

    def absorb(self, plan: ServerPlan) -> None:
        """See ServerEnd."""
        with trace.span("written wait", plan.stream_position):
            pieces = [self._await_written(trainer, plan.stream_position) for trainer in range(self._link.num_trainers)]
        with trace.span("scatter", plan.stream_position):
            self._store.scatter(plan.write_back_rows, np.concatenate(pieces))

    def _await_written(self, trainer: int, stream_position: int) -> Float32Array:
        with waiting_for(f"trainer {trainer}: write-backs of plan {stream_position}"):
            return take(self._link.written[self._server, trainer])

    def close(self) -> None:
        """See ServerEnd and TrainerEnd."""
        pass


class MemoryTrainer:
    """The side of a trainer."""

    def __init__(self, link: MemoryLink, trainer: int) -> None:
        self._link, self._trainer = link, trainer

    def fetch(self, plan: TrainerPlan, out: Float32Array) -> None:
        """See TrainerEnd."""
        with trace.span("ready wait", plan.stream_position):
            pieces = [self._await_ready(server, plan.stream_position) for server in range(self._link.num_servers)]
        with trace.span("get", plan.stream_position):
            np.concatenate(pieces, out=out)

    def write_back(self, plan: TrainerPlan, rows: Float32Array) -> None:
        """See TrainerEnd."""
        for server, piece in enumerate(np.split(rows, np.cumsum(plan.write_back_counts)[:-1])):
            self._link.written[server, self._trainer].put(piece.copy())

    def _await_ready(self, server: int, stream_position: int) -> Float32Array:
        with waiting_for(f"server {server}: rows of plan {stream_position}"):
            return take(self._link.offered[server, self._trainer])

    def close(self) -> None:
        """See ServerEnd and TrainerEnd."""
        pass
