"""The clock of a GPU, with a stand-in for torch.cuda."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bagpipe_hpc.trainer.device import cuda_clock
from bagpipe_hpc.trainer.device.device_clock import clock_of, milliseconds_per_call


class Event:
    """An event that has happened when it is recorded; the clock goes on by 3 ms from one to the next."""

    now = 0.0
    synchronized = 0

    def __init__(self, *, enable_timing: bool, blocking: bool) -> None:
        assert enable_timing
        assert blocking, "the host would keep a core busy"

    def record(self, stream: object) -> None:
        assert stream == "current"
        Event.now += 3.0
        self.at = Event.now

    def synchronize(self) -> None:
        Event.synchronized += 1

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


def test_it_notes_events_and_waits_for_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    fake = SimpleNamespace(Event=Event, current_stream=lambda device: "current", _sleep=held.append)
    monkeypatch.setattr(cuda_clock, "cuda", fake)
    clock = clock_of(torch.device("cuda", 1))
    assert milliseconds_per_call(clock, lambda: None, 2) == 1.5
    assert held == [cuda_clock.HELD_CYCLES]
    assert Event.synchronized == 1


def test_the_names_are_those_of_torch() -> None:
    assert {"record", "synchronize", "elapsed_time"} <= set(dir(torch.cuda.Event))
    assert hasattr(torch.cuda, "_sleep")
