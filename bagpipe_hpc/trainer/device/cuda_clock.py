"""The clock of a GPU: events that note the time when the stream reaches them."""

from __future__ import annotations

import torch
from torch import cuda

HELD_CYCLES = 20_000_000  # about 10 ms


class CudaClock:
    """A DeviceClock.

    Args:
        torch_device: The GPU.
    """

    def __init__(self, torch_device: torch.device) -> None:
        self._torch_device = torch_device

    def note(self) -> object:
        """See DeviceClock."""
        event = cuda.Event(enable_timing=True, blocking=True)
        event.record(cuda.current_stream(self._torch_device))
        return event

    def milliseconds(self, first: object, last: object) -> float:
        """See DeviceClock."""
        assert isinstance(first, cuda.Event)
        assert isinstance(last, cuda.Event)
        last.synchronize()
        return float(first.elapsed_time(last))

    def hold(self) -> None:
        """See DeviceClock."""
        cuda._sleep(HELD_CYCLES)
