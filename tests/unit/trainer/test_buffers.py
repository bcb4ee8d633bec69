"""Communication buffers: allocated once, and not overwritten while something still reads them."""

from __future__ import annotations

import numpy as np
import pytest

from bagpipe_hpc.trainer.buffers import BufferPool, RowBuffer, fixed_rows
from bagpipe_hpc.trainer.device.base import Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from tests.queued_device import QueuedDevice


@pytest.mark.parametrize("device", [CpuDevice(), QueuedDevice("late")], ids=["cpu", "queued"])
def test_a_buffer_grows_by_doubling_and_never_shrinks(device: CpuDevice | QueuedDevice) -> None:
    buffer = RowBuffer(device)
    for num_rows, num_allocations in ((0, 1), (3, 2), (4, 2), (2, 2), (5, 3), (8, 3), (9, 4), (1, 4), (16, 4)):
        rows = buffer.rows(num_rows, 8).host
        assert (rows.shape, rows.dtype, rows.flags.c_contiguous) == ((num_rows, 8), np.dtype(np.float32), True)
        assert device.num_allocations == num_allocations
    assert buffer.rows(32, 8, np.int16).host.dtype == np.int16
    assert device.num_allocations == 4


def test_on_the_cpu_both_parts_are_the_same() -> None:
    rows = RowBuffer(CpuDevice()).rows(3, 2)
    rows.host[:] = 7
    rows.up()
    assert rows.device is rows.host
    assert rows.down().is_there()


@pytest.mark.parametrize("order", ["late", "early"])
def test_rows_go_up_and_come_down(order: str) -> None:
    device = QueuedDevice("late" if order == "late" else "early")
    rows = RowBuffer(device).rows(4, 2)
    rows.host[:] = np.arange(8).reshape(4, 2)
    rows.up()
    device.launch(lambda: rows.device.mul_(10))
    rows.host[:2] = -1
    arrival = rows.down(2)  # the last two rows
    arrival.wait()
    assert arrival.is_there()
    assert rows.host.tolist() == [[-1, -1], [-1, -1], [40, 50], [60, 70]]


def test_the_next_rows_wait_for_the_way_up_of_those_before() -> None:
    device = QueuedDevice("late")
    buffer = RowBuffer(device)
    first = buffer.rows(2, 1)
    first.host[:] = 1
    first.up()
    seen = first.device.clone()
    device.launch(lambda: seen.copy_(first.device))
    buffer.rows(2, 1).host[:] = 2
    assert device.get(seen).ravel().tolist() == [1, 1]


def test_who_takes_a_buffer_waits_for_who_gave_it_back() -> None:
    device = QueuedDevice("late")
    pool = BufferPool(device)
    buffer = pool.take()
    rows = buffer.rows(1, 1)
    result = fixed_rows(device, 1, 1)
    with device.on(Stream.EXCHANGE):
        device.launch(lambda: rows.device.fill_(1))
        device.launch(lambda: result.device.copy_(rows.device))
        pool.give_back(buffer, device.mark())
    again = pool.take()
    assert again is buffer
    device.launch(lambda: again.rows(1, 1).device.fill_(2))
    device.drain()  # of this stream
    with device.on(Stream.EXCHANGE):
        result.down().wait()
    assert result.host[0, 0] == 1


def test_buffers_are_handed_out_again_once_given_back() -> None:
    pool = BufferPool(CpuDevice())
    first, second = pool.take(), pool.take()
    assert first is not second
    pool.give_back(first, None)
    assert pool.take() is first
