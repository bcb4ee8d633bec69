"""The in-memory twin of a communicator keeps the contract, and lets nobody wait for a rank that failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bagpipe_hpc.threaded_job import JobIsOverError, ThreadedJob
from bagpipe_hpc.transport.byte_messages import receive_bytes
from bagpipe_hpc.transport.memory_comm import MemoryComm
from tests.communicator import CHECKS, SIZE
from tests.parallel.programs.channel import messages_live_until_they_arrive, order_is_kept


@pytest.mark.parametrize("check", [*CHECKS, order_is_kept, messages_live_until_they_arrive])
def test_contract(check: Callable[[Any], None]) -> None:
    with ThreadPoolExecutor(SIZE) as pool:
        for played in [pool.submit(check, comm) for comm in MemoryComm.world(SIZE)]:
            played.result(timeout=60)


@pytest.mark.parametrize("wait", [lambda comm: comm.Barrier(), lambda comm: receive_bytes(comm, 0)])
def test_a_wait_ends_when_another_rank_fails(wait: Callable[[MemoryComm], object]) -> None:
    job, comm, waits = ThreadedJob(), MemoryComm.world(2)[1], threading.Event()

    def play() -> None:
        job.adopt()
        waits.set()
        with pytest.raises(JobIsOverError):
            wait(comm)

    with ThreadPoolExecutor(1) as pool:
        played = pool.submit(play)
        waits.wait(60)
        job.fail("rank 0", ValueError("of a kind"))
        played.result(timeout=60)
    assert job.failure is not None
    assert job.failure[0] == "rank 0"
