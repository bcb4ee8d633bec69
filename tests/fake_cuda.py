"""As much of torch.cuda as `trainer/device/cuda.py` calls, on the CPU: work runs at once, and waits are noted.

It shows that the module calls what exists and in the right streams. What a GPU does is for tests/gpu/.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.device import cuda as module
from bagpipe_hpc.trainer.device.base import RowKernels
from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels
from tests.recorded_graph import RecordedGraph


class FakeStream:
    """A stream that is never behind."""

    count = 0

    def __init__(self, device: torch.device, name: str = "") -> None:
        FakeStream.count += 1
        self.cuda_stream = FakeStream.count
        self.name = name or f"stream {self.cuda_stream}"

    def wait_event(self, event: FakeEvent) -> None:
        self.log("waits for", event)

    def wait_stream(self, stream: FakeStream) -> None:
        self.log("waits for", stream)

    def log(self, what: str, other: Any) -> None:
        FakeCuda.log.append((self.name, what, other.name))


class FakeEvent:
    """An event that has happened when it is recorded."""

    def __init__(self, blocking: bool = False) -> None:
        self.blocking, self.name = blocking, "nothing"

    def record(self, stream: FakeStream) -> None:
        self.name = f"work of {stream.name}"

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        assert self.blocking, "the host would keep a core busy"
        FakeCuda.log.append(("host", "waits for", self.name))


class FakeCuda:
    """In place of the module torch.cuda."""

    Stream, Event = FakeStream, FakeEvent
    log: ClassVar[list[tuple[str, str, str]]] = []
    default = FakeStream(torch.device("cpu"), "default stream")
    of_thread = threading.local()

    CUDAGraph = RecordedGraph

    @classmethod
    def default_stream(cls, device: torch.device) -> FakeStream:
        return cls.default

    @classmethod
    def current_stream(cls, device: torch.device) -> FakeStream:
        stream: FakeStream = getattr(cls.of_thread, "stream", cls.default)
        return stream

    @classmethod
    @contextmanager
    def stream(cls, stream: FakeStream) -> Iterator[None]:
        before = cls.current_stream(torch.device("cpu"))
        cls.of_thread.stream = stream
        try:
            yield
        finally:
            cls.of_thread.stream = before

    @staticmethod
    def memory_reserved(device: torch.device) -> int:
        return 0

    @staticmethod
    def graph_pool_handle() -> tuple[int, int]:
        return 0, 1

    @classmethod
    @contextmanager
    def graph(cls, graph: RecordedGraph, pool: tuple[int, int]) -> Iterator[None]:
        assert pool == (0, 1)
        with cls.stream(FakeStream(torch.device("cpu"), "stream that records")), graph.recording():
            yield


class FakeCudaDevice(module.CudaDevice):
    """A CudaDevice whose memory is that of the host."""

    def __init__(self, kernels: RowKernels | None = None, *, exposes_memory: bool = False) -> None:
        super().__init__(0, kernels or TorchKernels(), exposes_memory=exposes_memory)
        self.torch_device = torch.device("cpu")

    def random_states(self) -> dict[str, NDArray[np.uint8]]:
        return {}

    def keeping_random_numbers(self) -> AbstractContextManager[object]:
        return torch.random.fork_rng([])


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace torch.cuda in `trainer/device/cuda.py`."""
    FakeCuda.log.clear()
    monkeypatch.setattr(module, "cuda", FakeCuda)
    monkeypatch.setattr(module, "_page_locked", lambda shape, dtype: torch.empty(tuple(shape), dtype=dtype))
