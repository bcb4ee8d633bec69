"""Blocks that go up in one copy, on a device that does its work late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bagpipe_hpc.trainer.device.base import Block, Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.packed_block import ALIGNMENT, PackedBlock
from tests.queued_device import QueuedDevice

ARRAYS: list[NDArray[Any]] = [
    np.array([5, 6, 7], np.int32),
    np.empty(0, np.int64),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array([-1], np.int64),
]


@pytest.mark.parametrize("device", [CpuDevice(), QueuedDevice("late"), QueuedDevice("early")])
def test_rows_and_arrays_arrive_as_they_are(device: CpuDevice | QueuedDevice) -> None:
    block: Block = device.block()
    for num_rows in (2, 0, 300, 1):  # it grows, and serves again
        rows = block.pack(num_rows, 2, ARRAYS)
        assert (rows.shape, rows.dtype) == ((num_rows, 2), np.dtype(np.float32))
        rows[:] = np.arange(2 * num_rows).reshape(num_rows, 2)
        placed = [device.get(device.as_tensor(array)) for array in block.place()]
        for found, expected in zip(placed, [rows, *ARRAYS], strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
        block.release(device.mark())


def test_arrays_begin_where_kernels_may_read_several_elements_at_once() -> None:
    block = QueuedDevice("early").block()
    block.pack(1, 3, ARRAYS)
    first, *others = block.place()
    assert [(array.data_ptr() - first.data_ptr()) % ALIGNMENT for array in others if len(array)] == [0] * 3


def test_nothing_is_copied_on_the_cpu() -> None:
    block = CpuDevice().block()
    rows = block.pack(2, 2, ARRAYS)
    assert [a is b for a, b in zip(block.place(), [rows, *ARRAYS], strict=True)] == [True] * 5


def test_an_iteration_overtakes_none_that_used_the_block() -> None:
    """Neither on the host, whose memory may still be read, nor on the device."""
    device = QueuedDevice("late")
    block = PackedBlock(device)
    with device.on(Stream.UPLOAD):
        block.pack(1, 1, [])[:] = 1
        (first,) = block.place()
        placed = device.mark()
    with device.on(Stream.EXCHANGE):
        device.wait(placed)
        seen = first.clone().fill_(0)
        device.launch(seen.copy_, first)
        block.release(device.mark())
    with device.on(Stream.UPLOAD):
        block.pack(1, 1, [])[:] = 2
        (second,) = block.place()
        assert device.get(second).tolist() == [[2]]
    with device.on(Stream.EXCHANGE):
        assert device.get(seen).tolist() == [[1]]
