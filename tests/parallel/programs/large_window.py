"""On two ranks: rows beyond 2 GiB in a window or a ring of stages travel like any others; little memory is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from mpi4py import MPI

from bagpipe_hpc.bench.rma_traffic import Direction, RmaTraffic, server_plan, trainer_plan
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.sharding import Sharding
from bagpipe_hpc.transport.byte_messages import wait_all
from bagpipe_hpc.transport.staged import StagedServer, StagedTrainer
from bagpipe_hpc.transport.window import RowWindow

ROW_WIDTH = 251  # no power of two
NUM_ROWS = 2**33 // (4 * ROW_WIDTH) // 3  # 2.67 GiB
LAST = NUM_ROWS - 3
SCATTERED = np.array([NUM_ROWS - 9, 1, NUM_ROWS - 50, 2**31 // (4 * ROW_WIDTH)])


def row(number: int) -> np.ndarray:
    return np.arange(ROW_WIDTH, dtype=np.float32) + number


def rows_of_a_window(comm: MPI.Intracomm) -> None:
    window = RowWindow(comm, NUM_ROWS if comm.rank == 0 else 0, ROW_WIDTH)
    if comm.rank == 0:
        assert window.memory.nbytes > 2.5 * 2**30
        window.memory[LAST : LAST + 3] = [row(1), row(2), row(3)]
        window.memory[SCATTERED] = [row(10), row(11), row(12), row(13)]
        window.sync()
    comm.Barrier()
    if comm.rank == 1:
        landed = np.empty((3, ROW_WIDTH), dtype=np.float32)
        wait_all([window.get(0, LAST, landed)])
        np.testing.assert_array_equal(landed, [row(1), row(2), row(3)])
        wait_all([window.put(0, LAST, landed[::-1].copy())])
        window.flush(0)
        scattered = np.empty((4, ROW_WIDTH), dtype=np.float32)
        window.get_indexed(0, SCATTERED, scattered)
        np.testing.assert_array_equal(scattered, [row(10), row(11), row(12), row(13)])
        window.put_indexed(0, SCATTERED, -scattered)
    comm.Barrier()
    if comm.rank == 0:
        window.sync()
        np.testing.assert_array_equal(window.memory[LAST : LAST + 3], [row(3), row(2), row(1)])
        np.testing.assert_array_equal(window.memory[SCATTERED], [-row(10), -row(11), -row(12), -row(13)])
    window.free()


def stages_of_a_ring(comm: MPI.Intracomm) -> None:
    """The last rows of rings of 2.67 GiB, in both directions."""
    traffic = RmaTraffic(rows=3, dim=ROW_WIDTH, table_rows=50, prefetch_depth=0)
    last = np.array([LAST])
    at_the_end: dict[str, Any] = {
        "fetch_ring_rows": NUM_ROWS,
        "write_back_ring_rows": NUM_ROWS,
        "fetch_offsets": last,
        "write_back_offsets": last,
    }
    initializer = RowInitializer(traffic.key_space, ROW_WIDTH, seed=1)
    if comm.rank == 0:
        store = RowStore(Sharding(50, 1), 0, initializer, np.zeros((50, ROW_WIDTH), dtype=np.float32))
        server = StagedServer(comm, 1, 1, store)
    else:
        trainer = StagedTrainer(comm, 1, 1, ROW_WIDTH)
    landed = np.zeros((3, ROW_WIDTH), dtype=np.float32)
    for iteration, direction in enumerate(Direction):
        rows = server_plan(traffic, 0, iteration, direction)
        if comm.rank == 0:
            server.offer(replace(rows, **at_the_end))
            server.absorb(replace(rows, **at_the_end))
        else:
            plan = replace(trainer_plan(traffic, 0, iteration, direction), **at_the_end)
            trainer.fetch(plan, landed[: plan.fetch_counts.sum()])
            trainer.write_back(plan, -landed[: plan.write_back_counts.sum()])
    fetched = server_plan(traffic, 0, 0, Direction.FETCH).fetch_rows
    expected = np.zeros((3, ROW_WIDTH), dtype=np.float32)
    initializer.fill(fetched, expected)
    if comm.rank == 0:
        written = server_plan(traffic, 0, 1, Direction.WRITE_BACK).write_back_rows
        np.testing.assert_array_equal(store.rows[written], -expected)
        server.close()
    else:
        np.testing.assert_array_equal(landed, expected)
        trainer.close()


if __name__ == "__main__":
    rows_of_a_window(MPI.COMM_WORLD)
    stages_of_a_ring(MPI.COMM_WORLD)
