"""A GPU keeps the rules of `trainer/device/base.py`, and computes what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe_hpc.trainer.buffers import BufferPool, RowBuffer, fixed_rows
from bagpipe_hpc.trainer.device.base import Stream, UpdateLists
from bagpipe_hpc.trainer.device.child_trial import fault_of_exposure
from bagpipe_hpc.trainer.device.cpu import CpuDevice, CpuKernels
from bagpipe_hpc.trainer.device.cuda import CudaDevice
from bagpipe_hpc.trainer.random_state import keep_random_state, restore_random_state
from tests.kernels import check_kernels, pooled, random_lists, updated
from tests.unit.trainer.device.test_packed_block import ARRAYS
from tests.unit.trainer.device.test_recorded_model import NUM_DENSE, Own, check_bits, dlrm

DIM = 16
LONG = 200_000_000  # cycles: a tenth of a second


def delay(gpu: CudaDevice) -> None:
    """Keep the stream of this thread busy, so that work that does not wait for it is seen to come too early."""
    gpu.launch(torch.cuda._sleep, LONG)


def test_rows_go_up_and_come_down(gpu: CudaDevice) -> None:
    rows = RowBuffer(gpu).rows(4, 2)
    rows.host[:] = np.arange(8).reshape(4, 2)
    delay(gpu)
    rows.up()
    gpu.launch(lambda: rows.device.mul_(10))
    arrival = rows.down(2)  # the last two rows
    arrival.wait()
    assert arrival.is_there()
    assert rows.host.tolist() == [[0, 1], [2, 3], [40, 50], [60, 70]]


def test_the_host_does_not_wait(gpu: CudaDevice) -> None:
    rows = RowBuffer(gpu).rows(1000, 16)
    rows.host[:] = 1
    delay(gpu)
    rows.up()
    assert not rows.down().is_there()


def test_the_next_rows_wait_for_the_way_up_of_those_before(gpu: CudaDevice) -> None:
    buffer = RowBuffer(gpu)
    first = buffer.rows(1000, 16)
    seen = torch.empty_like(first.device)
    first.host[:] = 1
    delay(gpu)
    first.up()
    gpu.launch(seen.copy_, first.device)
    buffer.rows(1000, 16).host[:] = 2
    assert (gpu.get(seen) == 1).all()


def test_rows_for_peers_that_read_and_write_the_memory_of_the_gpu(gpu: CudaDevice) -> None:
    device = CudaDevice(gpu.torch_device.index, gpu.kernels, exposes_memory=True)
    buffer = RowBuffer(device, for_peers=True)
    first, seen = buffer.rows(1000, 16), fixed_rows(device, 1000, 16)
    assert first.exposed.is_cuda
    delay(device)
    device.launch(first.device.fill_, 3)
    arrival = first.down()
    assert not arrival.is_there()
    arrival.wait()
    assert arrival.is_there()
    with device.on(Stream.EXCHANGE):
        delay(device)
        device.launch(seen.device.copy_, first.device)
        first.release()
    again = buffer.rows(1000, 16)  # waits for the copy
    device.launch(again.device.fill_, 4)
    with device.on(Stream.EXCHANGE):
        seen.down().wait()
    assert (seen.host == 3).all()


@pytest.mark.parametrize("exposes_memory", [False, True])
def test_rows_are_picked_where_peers_read_them(gpu: CudaDevice, exposes_memory: bool) -> None:
    device = CudaDevice(gpu.torch_device.index, gpu.kernels, exposes_memory=exposes_memory)
    rows, out = (RowBuffer(device, for_peers=True).rows(count, 16) for count in (1000, 300))
    values = np.arange(16_000, dtype=np.float32).reshape(1000, 16)
    rows.device.copy_(device.put(values))
    rows.down().wait()
    positions = np.random.default_rng(2).permutation(1000)[:300]
    device.pick(rows, device.put(positions) if exposes_memory else positions, out).wait()
    np.testing.assert_array_equal(torch.as_tensor(out.exposed).cpu().numpy(), values[positions])


def test_whether_mpi_takes_the_memory_of_the_gpu_is_found_out(gpu: CudaDevice) -> None:
    """Whatever it is: the trial ends in time."""
    fault = fault_of_exposure()
    print(f"exchange: {fault or 'from GPU to GPU'}")
    assert "did not end" not in fault
    assert "cannot start" not in fault


def test_a_stream_waits_for_a_mark(gpu: CudaDevice) -> None:
    rows, seen = (fixed_rows(gpu, 1000, 16) for _ in range(2))
    rows.device.fill_(1)
    gpu.wait(gpu.mark())
    before = gpu.mark()
    with gpu.on(Stream.EXCHANGE):
        gpu.wait(before)
        delay(gpu)
        gpu.launch(lambda: rows.device.fill_(2))
        mark = gpu.mark()
    gpu.wait(mark)
    gpu.launch(lambda: seen.device.copy_(rows.device))
    seen.down().wait()
    assert (seen.host == 2).all()


def test_who_takes_a_buffer_waits_for_who_gave_it_back(gpu: CudaDevice) -> None:
    pool, result = BufferPool(gpu), fixed_rows(gpu, 1000, 16)
    buffer = pool.take()
    rows = buffer.rows(1000, 16)
    with gpu.on(Stream.EXCHANGE):
        gpu.launch(lambda: rows.device.fill_(1))
        delay(gpu)
        gpu.launch(lambda: result.device.copy_(rows.device))
        pool.give_back(buffer, gpu.mark())
    again = pool.take().rows(1000, 16)
    gpu.launch(lambda: again.device.fill_(2))
    with gpu.on(Stream.EXCHANGE):
        result.down().wait()
    assert (result.host == 1).all()


def test_blocks(gpu: CudaDevice) -> None:
    block = gpu.block()
    for num_rows in (2, 0, 3000, 1):
        with gpu.on(Stream.UPLOAD):
            rows = block.pack(num_rows, 2, ARRAYS)
            rows[:] = np.arange(2 * num_rows).reshape(num_rows, 2)
            placed, mark = block.place(), gpu.mark()
        gpu.wait(mark)
        for found, expected in zip(placed, [rows, *ARRAYS], strict=True):
            np.testing.assert_array_equal(gpu.get(gpu.as_tensor(found)), expected)
        block.release(gpu.mark())


def test_rows_of_kernels(gpu: CudaDevice) -> None:
    check_kernels(gpu.kernels, gpu.put, gpu.get)


@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize(("num_trainers", "rank"), [(1, 0), (2, 1), (8, 5)])
def test_sums_have_the_bits_of_the_cpu(gpu: CudaDevice, in_tree: bool, num_trainers: int, rank: int) -> None:
    lists, own, arrived = random_lists(num_trainers, rank, DIM, seed=1)
    expected = CpuKernels().add_up(lists, own, arrived, in_tree=in_tree)
    found = gpu.kernels.add_up(on(gpu, lists), gpu.put(own), gpu.put(arrived), in_tree=in_tree)
    assert gpu.get(found).tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "rowwise_adagrad", "adam"])
def test_updates_are_those_of_the_cpu(gpu: CudaDevice, name: str, in_tree: bool) -> None:
    """To the bit with the kernels in Triton, where torch on the CPU takes no square root."""
    found, expected = (updated(device, {"name": name}, in_tree=in_tree) for device in (gpu, CpuDevice()))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if gpu.kernels.name.startswith("Triton") and name in ("sgd", "momentum"):
        assert found.tobytes() == expected.tobytes()


def test_pooling_and_its_gradients(gpu: CudaDevice) -> None:
    on_cpu, first, second = pooled(CpuDevice()), pooled(gpu), pooled(gpu)
    for mine, theirs, again in zip(first, on_cpu, second, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        assert mine.tobytes() == again.tobytes()


def test_random_numbers_go_on_where_they_were_kept(gpu: CudaDevice) -> None:
    states = keep_random_state(gpu)
    expected = torch.rand(5, device=gpu.torch_device)
    restore_random_state(gpu, states)
    assert torch.equal(torch.rand(5, device=gpu.torch_device), expected)
    with gpu.keeping_random_numbers():
        torch.rand(3, device=gpu.torch_device)
    restore_random_state(gpu, keep_random_state(gpu))


@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("make", [dlrm, Own])
def test_graphs_give_the_bits_of_the_model(gpu: CudaDevice, make: Callable[[], nn.Module], in_bfloat16: bool) -> None:
    """The gradients, the logits, and the numbers that dropout draws."""
    check_bits(make, in_bfloat16, gpu, gpu.recording)


def test_a_model_that_waits_for_the_device_cannot_be_recorded(gpu: CudaDevice) -> None:
    class Waiting(nn.Linear):
        def forward(self, dense: torch.Tensor) -> torch.Tensor:
            return super().forward(dense) * float(dense.sum())

    model = Waiting(NUM_DENSE, 1).to(gpu.torch_device)
    with pytest.raises(RuntimeError, match="captur"):
        gpu.recording().record(lambda: model(torch.ones(2, NUM_DENSE, device=gpu.torch_device)))


def on(gpu: CudaDevice, lists: UpdateLists) -> UpdateLists:
    slots, positions, index = (gpu.put(each) for each in (lists.slots, lists.positions, lists.index))
    return UpdateLists(slots, positions, lists.num_own, index, lists.starts, lists.rank)
