"""Times of work on the CPU."""

from __future__ import annotations

import torch

from bagpipe_hpc.trainer.device.device_clock import HostClock, clock_of, milliseconds_per_call


def test_the_cpu_has_the_clock_of_the_host() -> None:
    clock = clock_of(torch.device("cpu"))
    assert isinstance(clock, HostClock)
    assert clock.milliseconds(1_000_000, 3_500_000) == 2.5


def test_calls_are_counted() -> None:
    calls: list[int] = []
    assert milliseconds_per_call(HostClock(), lambda: calls.append(1), 7) > 0
    assert len(calls) == 7
