"""Memory that peers read and write: they come after the work that writes it, and after the work that reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.buffers import RowBuffer, fixed_rows
from bagpipe_hpc.trainer.device.base import Device, Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.exposed_memory import ExposedMemory
from tests.queued_device import QueuedDevice, poisoned


def in_memory(rows: torch.Tensor) -> NDArray[np.float32]:
    """What MPI finds there at this moment."""
    array: NDArray[np.float32] = rows.numpy()
    return array


def test_peers_see_what_a_stream_has_written_once_it_has_arrived() -> None:
    device = QueuedDevice("late", exposes_memory=True)
    rows = RowBuffer(device, for_peers=True).rows(3, 2)
    assert rows.exposed is rows.device
    device.launch(rows.device.fill_, 4.0)
    arrival = rows.down()
    assert not arrival.is_there()
    assert np.isnan(in_memory(rows.exposed)).all()
    arrival.wait()
    assert (in_memory(rows.exposed) == 4).all()


def test_what_has_landed_needs_no_way_up() -> None:
    device = QueuedDevice("late", exposes_memory=True)
    rows = RowBuffer(device, for_peers=True).rows(3, 2)
    in_memory(rows.exposed)[:] = 7
    rows.up(1)
    assert device.get(rows.device * 2).tolist() == [[14, 14]] * 3


@pytest.mark.parametrize("releases", [True, False])
def test_rows_land_after_those_before_were_read(releases: bool) -> None:
    device = QueuedDevice("late", exposes_memory=True)
    buffer, seen = RowBuffer(device, for_peers=True), fixed_rows(device, 2, 1)
    first = buffer.rows(2, 1)
    in_memory(first.exposed)[:] = 1
    with device.on(Stream.EXCHANGE):
        device.launch(seen.device.copy_, first.device)
        if releases:
            first.release()
    in_memory(buffer.rows(2, 1).exposed)[:] = 2
    with device.on(Stream.EXCHANGE):
        seen.down().wait()
    assert (seen.host == (1 if releases else 2)).all()


def test_new_memory_waits_for_the_work_that_used_it_before() -> None:
    """Whoever has freed the memory: torch gives it out while its stream may still use it."""
    device = QueuedDevice("late", exposes_memory=True)
    done: list[int] = []
    device.launch(done.append, 1)
    memory = ExposedMemory(device, torch.from_numpy(poisoned(16)))
    assert done == []
    memory.await_host()
    assert done == [1]


def test_rows_for_servers_and_the_host_stay_in_host_memory() -> None:
    device = QueuedDevice("late", exposes_memory=True)
    for rows in (RowBuffer(device).rows(3, 2), fixed_rows(device, 3, 2)):
        assert isinstance(rows.host, np.ndarray)
        assert isinstance(rows.device, torch.Tensor)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize(
    "device",
    [CpuDevice(), QueuedDevice("late"), QueuedDevice("late", exposes_memory=True)],
    ids=["cpu", "queued", "exposed"],
)
def test_rows_are_picked_where_peers_read_them(device: Device, dtype: type) -> None:
    rows, out = (RowBuffer(device, for_peers=True).rows(count, 3, dtype) for count in (5, 2))
    values: NDArray[Any] = np.arange(15).reshape(5, 3).astype(dtype)
    np.asarray(rows.exposed)[:] = values
    positions = np.array([4, 1])
    device.pick(rows, device.put(positions) if device.exposes_memory else positions, out).wait()
    np.testing.assert_array_equal(np.asarray(out.exposed), values[positions])
    nothing = RowBuffer(device, for_peers=True).rows(0, 3, dtype)
    device.pick(rows, device.put(positions[:0]) if device.exposes_memory else positions[:0], nothing).wait()
