"""Losses that are read one iteration later."""

from __future__ import annotations

from collections.abc import Callable

from bagpipe_hpc.protocol.messages import Loss
from bagpipe_hpc.trainer.late_losses import LateLosses


class Device:
    """Counts which losses somebody has waited for."""

    def __init__(self) -> None:
        self.read: list[float] = []

    def loss(self, value: float) -> Callable[[], float]:
        def wait() -> float:
            self.read.append(value)
            return value

        return wait


def test_at_once_on_the_cpu() -> None:
    sent: list[Loss] = []
    LateLosses(sent.append, 0).add(1, Device().loss(0.5), 8)
    assert sent == [Loss(1, 0.5, 8)]


def test_a_loss_is_read_when_the_next_iteration_is_under_way() -> None:
    sent: list[Loss] = []
    late, device = LateLosses(sent.append, 1), Device()
    late.add(1, device.loss(0.5), 8)
    assert (sent, device.read) == ([], [])
    late.add(2, device.loss(0.25), 8)
    assert (sent, device.read) == ([Loss(1, 0.5, 8)], [0.5])
    late.flush()
    late.flush()
    assert (sent, device.read) == ([Loss(1, 0.5, 8), Loss(2, 0.25, 8)], [0.5, 0.25])
