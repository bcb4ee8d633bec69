"""The CPU as a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagpipe_hpc.trainer.device.base import ARRIVED
from bagpipe_hpc.trainer.device.cpu import CpuDevice


def test_inputs_of_the_model_are_aligned() -> None:
    message = np.arange(66, dtype=np.float32)
    for begin in range(3):
        array = message[begin : begin + 60].reshape(12, 5)
        tensor = CpuDevice().as_input(array)
        assert tensor.data_ptr() % 64 == 0
        assert tensor.numpy().tobytes() == array.tobytes()
        assert not np.shares_memory(tensor.numpy(), message)


def test_arrays_and_tensors_share_their_memory() -> None:
    device, array = CpuDevice(), np.arange(6, dtype=np.float32)
    for other in (device.as_tensor(array).numpy(), device.as_array(torch.from_numpy(array)), device.put(array)):
        assert np.shares_memory(other, array)
    assert np.shares_memory(device.get(torch.from_numpy(array).requires_grad_()), array)
    assert device.get(torch.from_numpy(array).view(2, 3).T).flags.c_contiguous


def test_gradients_are_kept_where_they_are() -> None:
    device, tensor = CpuDevice(), torch.ones(2, 3)

    def no_room(*_: object) -> None:
        pytest.fail("no room is needed")

    mirror = device.keep(tensor, no_room)  # type: ignore[arg-type]
    assert mirror.host is mirror.device
    assert np.shares_memory(mirror.host, tensor.numpy())
    assert mirror.down() is ARRIVED


def test_work_is_done_at_once() -> None:
    device = CpuDevice()
    done: list[int] = []
    device.launch(done.append, 1)
    device.wait(device.mark())
    assert done == [1]
