"""CUDA has one home: the device layer. What it does on a GPU is for tests/gpu/."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bagpipe_hpc.trainer.buffers import RowBuffer
from bagpipe_hpc.trainer.device.base import Stream
from bagpipe_hpc.trainer.device.cuda import CudaDevice
from bagpipe_hpc.trainer.wire import WireDtype
from tests.fake_cuda import FakeCuda, FakeCudaDevice, fake_cuda
from tests.launch import REPO_ROOT
from tests.unit.trainer.test_step import assert_equal, planned_training

PACKAGE = REPO_ROOT / "bagpipe_hpc"
LAYER = PACKAGE / "trainer" / "device"
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if LAYER not in path.parents)
# To look at the kind of a device, and to move a tensor to another one, is for the layer too.
FOREIGN = re.compile(r"cuda|nvidia_|\.device\.type|\.cpu\(\)|pin_memory|non_blocking|\.to\(device\)", re.IGNORECASE)
# The model is read when training is over or stands still; the peers of a benchmark are systems of their own.
ALLOWED = {"trainer/dense_gradients.py": {".cpu()"}, "trainer/dense_state.py": {".cpu()"}}
ALLOWED |= {"bench/peers/sharded.py": {"non_blocking", "pin_memory"}}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_no_other_module_names_it(source: Path) -> None:
    found = {match.lower() for match in FOREIGN.findall((PACKAGE / source).read_text(encoding="utf-8"))}
    foreign = found - ALLOWED.get(source.as_posix(), set())
    assert not foreign, f"{source}: {sorted(foreign)} belongs into bagpipe_hpc/trainer/device/"


def test_which_stream_waits_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch)
    device = FakeCudaDevice()
    buffer = RowBuffer(device)
    rows = buffer.rows(3, 2)
    rows.host[:] = 5
    with device.on(Stream.UPLOAD):
        rows.up()
        mark = device.mark()
        upload = FakeCuda.current_stream(device.torch_device).name
    with device.on(Stream.EXCHANGE):
        device.wait(None)  # nothing to wait for
        device.wait(mark)
        exchange = FakeCuda.current_stream(device.torch_device).name
    device.launch(rows.device.mul_, 2)
    arrival = rows.down(1)
    assert FakeCuda.log[0] == (exchange, "waits for", f"work of {upload}")
    down, what, other = FakeCuda.log[1]
    assert (what, other) == ("waits for", "default stream")
    assert down not in (upload, exchange, other)
    assert arrival.is_there()
    arrival.wait()
    assert FakeCuda.log[2] == ("host", "waits for", f"work of {down}")
    buffer.rows(1, 1)  # its host part is still on its way up
    assert FakeCuda.log[3:] == [("host", "waits for", f"work of {upload}")]
    buffer.rows(1, 1)
    assert rows.host.tolist() == [[5, 5], [10, 10], [10, 10]]
    assert len(FakeCuda.log) == 4


def test_rows_for_peers_that_read_the_memory_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch)
    device = FakeCudaDevice(exposes_memory=True)
    buffer = RowBuffer(device, for_peers=True)
    rows = buffer.rows(3, 2)
    allocated = ("host", "waits for", "work of default stream")
    assert FakeCuda.log == [allocated]  # torch may give memory out that the stream still uses
    device.launch(rows.device.fill_, 2)
    rows.down().wait()
    assert FakeCuda.log == [allocated] * 2
    assert rows.exposed.tolist() == [[2, 2]] * 3
    rows.up()
    with device.on(Stream.EXCHANGE):
        rows.release()
        exchange = FakeCuda.current_stream(device.torch_device).name
    assert len(FakeCuda.log) == 2
    for _ in range(2):  # it waits once
        buffer.rows(1, 1)
        assert FakeCuda.log[2:] == [("host", "waits for", f"work of {exchange}")]


@pytest.mark.parametrize(
    ("num_trainers", "wire", "exposes_memory"),
    [(1, "float32", False), (2, "float16", False), (2, "float32", False), (2, "float16", True), (2, "float32", True)],
)
def test_training_calls_what_exists(
    monkeypatch: pytest.MonkeyPatch, num_trainers: int, wire: WireDtype, exposes_memory: bool
) -> None:
    fake_cuda(monkeypatch)
    plain = planned_training(num_trainers, 20, 3, order="while", wire=wire)
    make_device = partial(FakeCudaDevice, exposes_memory=exposes_memory)
    assert_equal(planned_training(num_trainers, 20, 3, order="while", wire=wire, make_device=make_device), plain)
    waits = {(waiting, other) for waiting, _, other in FakeCuda.log}
    assert ("default stream", "work of default stream") not in waits


MODULE = "bagpipe_hpc.trainer.device.triton_kernels"


def test_kernels_are_those_in_triton_where_there_is_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch)
    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(TritonKernels=lambda: SimpleNamespace(name="Triton 9")))
    assert CudaDevice(3).name == "cuda:3 (Triton 9)"
    monkeypatch.setitem(sys.modules, MODULE, None)
    assert CudaDevice(0).name == "cuda:0 (plain torch)"


def test_the_names_are_those_of_torch() -> None:
    streams = ("Stream", "Event", "default_stream", "current_stream", "stream")
    for name in (*streams, "CUDAGraph", "graph", "graph_pool_handle"):
        assert hasattr(torch.cuda, name)
    for name in ("wait_event", "wait_stream"):
        assert hasattr(torch.cuda.Stream, name)
    assert hasattr(torch.cuda.CUDAGraph, "replay")
    assert {"query", "record", "synchronize"} <= set(dir(torch.cuda.Event))
