"""The sum of dense gradients on devices with memory of their own, against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import nn

from bagpipe_hpc.trainer.dense_gradients import DenseSynchronizer
from bagpipe_hpc.trainer.device.base import Device, Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from tests.queued_device import Order, QueuedDevice


class Doubling:
    """The sum over two trainers that have the same gradients, and its own buckets.

    Args:
        reaches: Whether it sums memory of the device.
    """

    def __init__(self, reaches: bool) -> None:
        self.sums_gpu_memory = reaches
        self.buffers: list[torch.Tensor] = []

    def bucket(self, buffer: torch.Tensor) -> DoublingBucket:
        self.buffers.append(buffer)
        return DoublingBucket(self, len(self.buffers) - 1)

    def free(self) -> None:
        pass


class DoublingBucket:
    def __init__(self, owner: Doubling, number: int) -> None:
        self.owner, self.number = owner, number

    def start(self) -> None:
        self.sent = self.owner.buffers[self.number].clone()

    def finish(self) -> None:
        buffer = self.owner.buffers[self.number]
        if self.owner.sums_gpu_memory:
            buffer.add_(self.sent)
        else:  # a sum of the host: numpy does not wait for the device
            buffer.numpy()[:] += self.sent.numpy()


def trained(device: Device, reaches: bool, num_blocks: int) -> tuple[list[bytes], list[float]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 1))
    unused = nn.Parameter(torch.ones(3))  # gets no gradient
    model.register_parameter("unused", unused)
    dense_sum = Doubling(reaches)
    synchronizer = DenseSynchronizer(model, dense_sum, device, num_blocks)
    gradients, losses = [], []
    before: Callable[[], float] | None = None
    for iteration in range(3):
        for block in range(num_blocks):
            for parameter in model.parameters():
                parameter.grad = None
            loss = model(torch.full((4, 40), 0.1 * (iteration + block + 1))).square().mean()
            synchronizer.start(loss, is_last=block == num_blocks - 1)
            loss.backward()
            synchronizer.end_block()
        latest = synchronizer.finish()
        losses += [before()] if before else []  # one iteration late
        before = latest
        gradients += [device.get(p.grad).tobytes() for p in model.parameters() if p.grad is not None]
    assert before is not None
    assert unused.grad is not None
    return gradients, [*losses, before()]


@pytest.mark.parametrize("num_blocks", [1, 4])
@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("reaches", [False, True])
def test_the_same_on_every_device(num_blocks: int, order: Order, reaches: bool) -> None:
    device = QueuedDevice(order)
    with device.on(Stream.COMPUTE):
        found = trained(device, reaches, num_blocks)
    assert found == trained(CpuDevice(), reaches, num_blocks)
