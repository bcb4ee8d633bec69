"""What a server and a trainer do in each part of the RMA benchmark.

Both have a ring of P + 1 stages in a window of the benchmark's own. The ring is as large as those of the staged
transport, so contiguous transfers without a protocol touch as much memory as those with one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from bagpipe_hpc.bench.rma_figures import CONTIGUOUS, COPY, SERVER
from bagpipe_hpc.bench.rma_traffic import Direction, RmaTraffic, RmaTransport, local_rows, server_plan, trainer_plan
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.transport.base import ServerEnd, TrainerEnd
from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.direct import DirectServer, DirectTrainer
from bagpipe_hpc.transport.staged import StagedServer, StagedTrainer
from bagpipe_hpc.transport.window import RowWindow

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.device.base import Mirror

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
Work = Callable[[], None]

SEED = 0


class PerRowWindow(RowWindow):
    """A window with one transfer per row. Stages exist to avoid this."""

    def get_indexed(self, server: int, row_indices: Int64Array, out: Float32Array) -> None:
        """Read rows, int64 (n,), into out, float32 (n, row_width). Complete on return."""
        for position, row in enumerate(row_indices.tolist()):
            self._window.Get([out[position], 1, self._row_type], server, (row, 1, self._row_type))
        self.flush(server)

    def put_indexed(self, server: int, row_indices: Int64Array, rows: Float32Array) -> None:
        """Write rows, int64 (n,), from float32 (n, row_width). Complete on return."""
        for position, row in enumerate(row_indices.tolist()):
            self._window.Put([rows[position], 1, self._row_type], server, (row, 1, self._row_type))
        self.flush(server)


class BenchServer:
    """The parts of a server. `works` maps what is measured to the passes of all iterations.

    Communication: construction and `close` are collective over comm, with `BenchTrainer`.
    """

    def __init__(self, comm: MPI.Intracomm, traffic: RmaTraffic) -> None:
        self._traffic = traffic
        self._plans = {
            direction: [server_plan(traffic, comm.rank, n, direction) for n in range(traffic.iterations)]
            for direction in Direction
        }
        stage_rows = traffic.num_trainers * traffic.rows_per_server
        self._ring = RowWindow(comm, traffic.num_stages * stage_rows, traffic.dim)
        self._ring.memory.fill(1)  # so that every page exists
        self._stages = self._ring.memory.reshape(traffic.num_stages, stage_rows, traffic.dim)
        shape = (traffic.sharding.num_local_rows(comm.rank), traffic.dim)
        self._store = self._fill(comm.rank, lazy_zeros(shape, np.float32))
        self.works: dict[tuple[str, Direction], Work] = {
            (SERVER, Direction.FETCH): self._gather,
            (SERVER, Direction.WRITE_BACK): self._scatter,
        }
        self._ends: list[ServerEnd] = []
        for transport in traffic.transports:
            end = self._open(comm, transport)
            self._ends.append(end)
            for direction, plans in self._plans.items():
                self.works[transport, direction] = partial(self._serve, end, plans)
                self._serve(end, plans[: traffic.warm_up])

    def _open(self, comm: MPI.Intracomm, transport: RmaTransport) -> ServerEnd:
        traffic = self._traffic
        if transport is RmaTransport.STAGED:
            return StagedServer(comm, traffic.servers, traffic.num_stages, self._store)
        window = _window_type(transport)(comm, *self._store.rows.shape)
        return DirectServer(comm, traffic.servers, window, self._fill(comm.rank, window.memory))

    def close(self) -> None:
        for end in self._ends:
            end.close()
        del self._stages
        self._ring.free()

    def _fill(self, server: int, rows: Float32Array) -> RowStore:
        """Return a store in which all rows that will move exist."""
        traffic = self._traffic
        store = RowStore(traffic.sharding, server, initial_rows(traffic), rows)
        for plan in self._plans[Direction.FETCH]:
            store.materialise(plan.fetch_rows)
        return store

    def _gather(self) -> None:
        plans = self._plans[Direction.FETCH]
        for plan, stage in zip(plans, _around(self._stages, len(plans)), strict=True):
            self._store.gather(plan.fetch_rows, stage)

    def _scatter(self) -> None:
        plans = self._plans[Direction.WRITE_BACK]
        for plan, stage in zip(plans, _around(self._stages, len(plans)), strict=True):
            self._store.scatter(plan.write_back_rows, stage)

    def _serve(self, end: ServerEnd, plans: Sequence[ServerPlan]) -> None:
        """Serve as an embedding server does."""
        unabsorbed: deque[ServerPlan] = deque()
        for plan in plans:
            if len(unabsorbed) > self._traffic.prefetch_depth:
                end.absorb(unabsorbed.popleft())
            end.offer(plan)
            unabsorbed.append(plan)
        while unabsorbed:
            end.absorb(unabsorbed.popleft())


class BenchTrainer:
    """The parts of a trainer. `works` maps what is measured to the passes of all iterations.

    Raises:
        RuntimeError: A transport brought rows that differ from the table's.
        PlatformError: The rows shall lie on a GPU, and torch finds none.
    """

    def __init__(self, comm: MPI.Intracomm, traffic: RmaTraffic) -> None:
        self._traffic, self._trainer = traffic, comm.rank - traffic.servers
        self._ring = RowWindow(comm, 0, traffic.dim)
        self._rows = None if traffic.device == "cpu" else _rows_on_device(traffic, self._trainer)
        self._landing = np.zeros((traffic.rows, traffic.dim), np.float32) if self._rows is None else self._rows().host
        self._stages = np.ones((traffic.num_stages, traffic.rows, traffic.dim), dtype=np.float32)
        self.works: dict[tuple[str, Direction], Work] = {}
        for direction in Direction:
            self.works[COPY, direction] = self._copy
            self.works[CONTIGUOUS, direction] = partial(self._transfer, direction)
        self._ends: list[TrainerEnd] = []
        for transport in traffic.transports:
            end = self._open(comm, transport)
            self._ends.append(end)
            for direction in Direction:
                plans = [trainer_plan(traffic, self._trainer, n, direction) for n in range(traffic.iterations)]
                self.works[transport, direction] = partial(self._play, end, plans)
                self._play(end, plans[: traffic.warm_up])
                if direction is Direction.FETCH:
                    self._check(transport, traffic.warm_up - 1)

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._ring.free()

    def _open(self, comm: MPI.Intracomm, transport: RmaTransport) -> TrainerEnd:
        traffic = self._traffic
        if transport is RmaTransport.STAGED:
            return StagedTrainer(comm, traffic.servers, traffic.num_stages, traffic.dim)
        return DirectTrainer(comm, traffic.servers, _window_type(transport)(comm, 0, traffic.dim))

    def _copy(self) -> None:
        for stage in _around(self._stages, self._traffic.iterations):
            np.copyto(self._landing, stage)

    def _transfer(self, direction: Direction) -> None:
        """Make one Get or Put per server and iteration, while the servers wait inside MPI."""
        start = self._ring.get if direction is Direction.FETCH else self._ring.put
        count, servers = self._traffic.rows_per_server, range(self._traffic.servers)
        for iteration in range(self._traffic.iterations):
            ring_slot = iteration % self._traffic.num_stages
            first = (ring_slot * self._traffic.num_trainers + self._trainer) * count
            pieces = [(server, self._landing[server * count : (server + 1) * count]) for server in servers]
            wait_all([start(server, first, piece) for server, piece in pieces])
            for server in servers:
                self._ring.flush(server)

    def _play(self, end: TrainerEnd, plans: Sequence[TrainerPlan]) -> None:
        """Do what a trainer does whose computation takes no time."""
        for plan in plans:
            if self._rows is not None:
                self._play_on_device(end, plan, self._rows())
                continue
            end.fetch(plan, self._landing[: plan.fetch_counts.sum()])
            end.write_back(plan, self._landing[: plan.write_back_counts.sum()])

    def _play_on_device(self, end: TrainerEnd, plan: TrainerPlan, rows: Mirror) -> None:
        """Fetch, bring the rows up; bring them down, write back. Some plans have rows in one direction only."""
        num_fetched, num_written = int(plan.fetch_counts.sum()), int(plan.write_back_counts.sum())
        end.fetch(plan, rows.host[:num_fetched])
        if num_fetched:
            rows.up()
        if num_written:
            rows.down().wait()
        end.write_back(plan, rows.host[:num_written])

    def _check(self, transport: RmaTransport, iteration: int) -> None:
        traffic = self._traffic
        keys = [
            traffic.sharding.keys_of(server, rows.reshape(self._traffic.num_trainers, -1)[self._trainer])
            for server in range(traffic.servers)
            for rows in [local_rows(traffic, server, iteration)]
        ]
        expected = np.empty_like(self._landing)
        initial_rows(traffic).fill(np.concatenate(keys), expected)
        if not np.array_equal(self._landing, expected):
            raise RuntimeError(f"{transport} transport brought wrong rows to trainer {self._trainer}")


def _rows_on_device(traffic: RmaTraffic, trainer: int) -> Callable[[], Mirror]:
    """Return a function that returns rows of a trainer, when no copy reads their host part any more."""
    from bagpipe_hpc.trainer.buffers import RowBuffer  # imports torch, which takes seconds
    from bagpipe_hpc.trainer.device.choose import choose_device

    buffer = RowBuffer(choose_device(traffic.device, trainer))
    return lambda: buffer.rows(traffic.rows, traffic.dim)


def initial_rows(traffic: RmaTraffic) -> RowInitializer:
    """Return the content of the table before anything is written back."""
    return RowInitializer(traffic.key_space, traffic.dim, SEED)


def _window_type(transport: RmaTransport) -> type[RowWindow]:
    return PerRowWindow if transport is RmaTransport.PER_ROW else RowWindow


def _around(stages: Float32Array, iterations: int) -> Iterator[Float32Array]:
    """Yield each iteration's stage in a ring."""
    return islice(cycle(stages), iterations)
