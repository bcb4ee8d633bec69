"""Times of work on a device, for benchmarks: taken by the device itself, as its stream passes two moments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch

Moment: TypeAlias = object


class DeviceClock(Protocol):
    """Takes the time between moments in the stream of the calling thread."""

    def note(self) -> Moment:
        """Return the moment at which the device will have done all work so far of this stream."""

    def milliseconds(self, first: Moment, last: Moment) -> float:
        """Return the time between two moments. The host waits for the last one."""

    def hold(self) -> None:
        """Keep the stream busy for some milliseconds, so that the work after it is queued before it begins."""


class HostClock:
    """The clock of the CPU, which has done its work when a call returns."""

    def note(self) -> Moment:
        """See DeviceClock."""
        return time.perf_counter_ns()

    def milliseconds(self, first: Moment, last: Moment) -> float:
        """See DeviceClock."""
        assert isinstance(first, int)
        assert isinstance(last, int)
        return (last - first) / 1e6

    def hold(self) -> None:
        """See DeviceClock. There is nothing to queue."""


def clock_of(torch_device: torch.device) -> DeviceClock:
    """Return the clock of the device of a tensor."""
    if torch_device.type == "cpu":
        return HostClock()
    from bagpipe_hpc.trainer.device.cuda_clock import CudaClock

    return CudaClock(torch_device)


def milliseconds_per_call(clock: DeviceClock, work: Callable[[], object], calls: int) -> float:
    """Return the mean time of some calls of a function that gives work to the stream of the calling thread."""
    clock.hold()
    first = clock.note()
    for _ in range(calls):
        work()
    return clock.milliseconds(first, clock.note()) / calls
