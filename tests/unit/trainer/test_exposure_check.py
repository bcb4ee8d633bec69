"""The check that rows get from device to device, before training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.device.base import Device, Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.exposure_check import require_exposure
from bagpipe_hpc.trainer.step import Blocks, Swap
from tests.queued_device import QueuedDevice
from tests.unit.trainer.test_step import Board, ThreadPeers, ThreadSwap, in_memory


class LosingPeers(ThreadPeers):
    """Loses the last value of long blocks."""

    def begin(self, outgoing: Blocks, incoming: Blocks) -> ThreadSwap:
        sent = [(peer, in_memory(block).copy()) for peer, block in outgoing]
        for _, block in sent:
            if len(block) > 1000:
                block[-1, -1] = 0
        return super().begin(sent, incoming)


class FailingPeers:
    """Fails as MPI may."""

    def begin(self, outgoing: Blocks, incoming: Blocks) -> Swap:
        raise RuntimeError("MPI_ERR_OTHER:\n known error")


def check(device: Device, peers: ThreadPeers | FailingPeers, rank: int, num_trainers: int) -> None:
    with device.on(Stream.COMPUTE):
        require_exposure(device, peers, rank, num_trainers)


@pytest.mark.parametrize("num_trainers", [2, 3])
def test_rows_go_round_in_a_circle(num_trainers: int) -> None:
    board = Board(num_trainers)
    with ThreadPoolExecutor(num_trainers) as threads:
        devices = [QueuedDevice("late", exposes_memory=True) for _ in range(num_trainers)]
        peers = [ThreadPeers(board, rank) for rank in range(num_trainers)]
        list(threads.map(partial(check, num_trainers=num_trainers), devices, peers, range(num_trainers)))


def test_wrong_values_end_the_job_with_what_mends_it() -> None:
    board = Board(2)
    with ThreadPoolExecutor(2) as threads:
        devices = [QueuedDevice("late", exposes_memory=True) for _ in range(2)]
        peers = [LosingPeers(board, 0), ThreadPeers(board, 1)]
        good, bad = (threads.submit(check, devices[rank], peers[rank], rank, 2) for rank in range(2))
    good.result()
    with pytest.raises(
        PlatformError, match=r"bytes from trainer 0 arrive as other values on queued; set training.exch"
    ):
        bad.result()


def test_an_error_of_mpi_is_named() -> None:
    with pytest.raises(PlatformError, match=r"by MPI: RuntimeError: MPI_ERR_OTHER: known error; set training.exchange"):
        check(QueuedDevice("late", exposes_memory=True), FailingPeers(), 0, 2)


@pytest.mark.parametrize(
    ("device", "num_trainers"),
    [(CpuDevice(), 2), (QueuedDevice("late"), 2), (QueuedDevice("late", exposes_memory=True), 1)],
)
def test_otherwise_nothing_is_sent(device: Device, num_trainers: int) -> None:
    check(device, FailingPeers(), 0, num_trainers)
