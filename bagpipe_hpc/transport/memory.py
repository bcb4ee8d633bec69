"""The in-process twin of the row transport: queues between threads, no MPI. For tests."""

from __future__ import annotations

from queue import Queue

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.lookahead.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.store.row_store import RowStore

Float32Array = NDArray[np.float32]


class MemoryLink:
    """Queues between every server and every trainer.

    Args:
        timeout: Seconds after which a wait fails with queue.Empty instead of hanging.
    """

    def __init__(self, num_servers: int, num_trainers: int, timeout: float = 30.0) -> None:
        self.num_servers, self.num_trainers, self.timeout = num_servers, num_trainers, timeout
        self.offered: dict[tuple[int, int], Queue[Float32Array]] = {}
        self.written: dict[tuple[int, int], Queue[Float32Array]] = {}
        for server in range(num_servers):
            for trainer in range(num_trainers):
                self.offered[server, trainer] = Queue()
                self.written[server, trainer] = Queue()


class MemoryServer:
    """Server end of a MemoryLink."""

    def __init__(self, link: MemoryLink, server: int, store: RowStore) -> None:
        self._link, self._server, self._store = link, server, store

    def offer(self, plan: ServerPlan) -> None:
        rows = np.empty((len(plan.fetch_rows), self._store.row_width), dtype=np.float32)
        self._store.gather(plan.fetch_rows, rows)
        for trainer, piece in enumerate(np.split(rows, np.cumsum(plan.fetch_counts)[:-1])):
            self._link.offered[self._server, trainer].put(piece)

    def absorb(self, plan: ServerPlan) -> None:
        pieces = [
            self._link.written[self._server, trainer].get(timeout=self._link.timeout)
            for trainer in range(self._link.num_trainers)
        ]
        self._store.scatter(plan.write_back_rows, np.concatenate(pieces))

    def close(self) -> None:
        pass


class MemoryTrainer:
    """Trainer end of a MemoryLink."""

    def __init__(self, link: MemoryLink, trainer: int) -> None:
        self._link, self._trainer = link, trainer

    def fetch(self, plan: TrainerPlan, out: Float32Array) -> None:
        pieces = [
            self._link.offered[server, self._trainer].get(timeout=self._link.timeout)
            for server in range(self._link.num_servers)
        ]
        np.concatenate(pieces, out=out)

    def write_back(self, plan: TrainerPlan, rows: Float32Array) -> None:
        for server, piece in enumerate(np.split(rows, np.cumsum(plan.write_back_counts)[:-1])):
            self._link.written[server, self._trainer].put(piece.copy())

    def close(self) -> None:
        pass
