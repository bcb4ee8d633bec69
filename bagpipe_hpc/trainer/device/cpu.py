"""The CPU as a device. Host and device share their memory: nothing is copied, nothing is queued, nothing waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc.available_memory import available_bytes
from bagpipe_hpc.errors import ExecutionError
from bagpipe_hpc.trainer.device.base import (
    ARRIVED,
    Arrival,
    Block,
    DeviceArray,
    HostArray,
    Mark,
    Memory,
    Mirror,
    PlacedSamples,
    Recording,
    RowJob,
    RowKernels,
    SamplePooling,
    SampleRows,
    Stream,
    UpdateLists,
)
from bagpipe_hpc.trainer.row_kernels import add_gradients, add_gradients_in_tree, copy_rows, copy_rows_to
from bagpipe_hpc.trainer.wire import FLOAT32, Wire

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.iteration_lists import GradientList
    from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
    from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
    from bagpipe_hpc.trainer.sample_blocks import BlockSamples

_NOTHING: AbstractContextManager[None] = nullcontext()


class CpuDevice:
    """A Device. A DeviceArray is a numpy array."""

    def __init__(self) -> None:
        self.name, self.torch_device = "cpu", torch.device("cpu")
        self.shares_memory = self.exposes_memory = True
        self.kernels: RowKernels = CpuKernels()
        self.num_allocations = 0

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """See Device."""
        return _NOTHING

    def mark(self) -> Mark:
        """See Device."""
        return None

    def wait(self, mark: Mark) -> None:
        """See Device."""

    def launch(self, work: Callable[..., object], *args: Any) -> None:
        """See Device."""
        work(*args)

    def arrival(self) -> Arrival:
        """See Device."""
        return ARRIVED

    def allocate(self, num_bytes: int, *, for_peers: bool = False) -> Memory:
        """See Device."""
        self.num_allocations += 1
        return SharedMemory(num_bytes)

    def pick(self, rows: Mirror, positions: DeviceArray, out: Mirror) -> Arrival:
        """See Device."""
        copy_rows(rows.exposed, positions, out.exposed)
        return ARRIVED

    def empty_rows(self, num_rows: int, columns: int) -> torch.Tensor:
        """See Device."""
        return torch.empty((num_rows, columns), dtype=torch.float32)

    def block(self) -> Block:
        """See Device."""
        return CpuBlock(self)

    def keep(self, tensor: torch.Tensor, room: Callable[[int, int, DTypeLike], Mirror]) -> Mirror:
        """See Device."""
        array = self.get(tensor)
        return Mirror(None, array, array)

    def as_tensor(self, array: DeviceArray) -> torch.Tensor:
        """See Device."""
        return torch.from_numpy(array)

    def as_input(self, array: DeviceArray) -> torch.Tensor:
        """See Device. This copies."""
        return torch.tensor(array)

    def as_array(self, tensor: torch.Tensor) -> DeviceArray:
        """See Device."""
        return tensor.numpy()

    def put(self, array: HostArray) -> DeviceArray:
        """See Device."""
        return array

    def get(self, tensor: torch.Tensor) -> HostArray:
        """See Device."""
        array: HostArray = tensor.detach().contiguous().numpy()
        return array

    def free_bytes(self, trainers_on_host: int) -> int:
        """See Device. This is what the batch job may still use on this host, divided by the trainers of the host."""
        return available_bytes() // trainers_on_host

    def allocated_bytes(self) -> int:
        """See Device."""
        return 0

    def autocast(self, *, enabled: bool) -> AbstractContextManager[object]:
        """See Device."""
        return torch.autocast("cpu", torch.bfloat16) if enabled else _NOTHING

    def recording(self) -> Recording:
        """See Device. Raises ExecutionError."""
        raise ExecutionError(
            "training.execution is graph, but this trainer computes on the CPU, which has no graphs: set "
            "training.execution to eager, which gives the same bits, or start trainers where each has a GPU"
        )

    def random_states(self) -> dict[str, NDArray[np.uint8]]:
        """See Device."""
        return {}

    def restore_random_states(self, states: Mapping[str, Any]) -> None:
        """See Device."""

    def keeping_random_numbers(self) -> AbstractContextManager[object]:
        """See Device."""
        return torch.random.fork_rng([])


class SharedMemory:
    """A Memory of the host alone."""

    def __init__(self, num_bytes: int) -> None:
        self.host: NDArray[np.uint8] = torch.empty(num_bytes, dtype=torch.uint8).numpy()

    def view(self, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> DeviceArray:
        """See Memory."""
        num_bytes = math.prod(shape) * dtype.itemsize
        return self.host[begin : begin + num_bytes].view(dtype).reshape(shape)

    def up(self, begin: int, end: int) -> None:
        """See Memory."""

    def down(self, begin: int, end: int) -> Arrival:
        """See Memory."""
        return ARRIVED

    def await_host(self) -> None:
        """See Memory."""

    def release(self) -> None:
        """See Memory."""


class CpuBlock:
    """A Block. The arrays stay where they are; only fetched rows have room of their own."""

    def __init__(self, device: CpuDevice) -> None:
        self._device = device
        self._memory = SharedMemory(0)
        self._arrays: list[DeviceArray] = []

    def pack(self, num_rows: int, row_width: int, arrays: Sequence[HostArray]) -> NDArray[np.float32]:
        """See Block."""
        num_bytes = 4 * num_rows * row_width
        if num_bytes > len(self._memory.host):
            self._device.num_allocations += 1
            self._memory = SharedMemory(1 << (num_bytes - 1).bit_length())
        rows = self._memory.host[:num_bytes].view(np.float32).reshape(num_rows, row_width)
        self._arrays = [rows, *arrays]
        return rows

    def place(self) -> list[DeviceArray]:
        """See Block."""
        return self._arrays

    def release(self, mark: Mark) -> None:
        """See Block."""
        self._arrays = []


class CpuKernels:
    """RowKernels in compiled loops and operations of torch."""

    name = "compiled loops"

    def arrays_of_samples(self, job: RowJob, samples: BlockSamples, num_rows: int) -> Sequence[HostArray]:
        """See RowKernels."""
        return ()

    def arrays_of_updates(self, job: RowJob, updates: GradientList, num_trained: int) -> Sequence[HostArray]:
        """See RowKernels."""
        return ()

    def copy_rows(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, wire: Wire = FLOAT32) -> None:
        """See RowKernels."""
        if wire.is_exact:
            copy_rows(rows, positions, out)
        else:
            columns = torch.from_numpy(rows).index_select(0, torch.from_numpy(positions))[:, : out.shape[1]]
            torch.from_numpy(out).copy_(wire.pack(columns))

    def copy_rows_to(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, places: DeviceArray) -> None:
        """See RowKernels."""
        copy_rows_to(rows, positions, out, places)

    def write_rows(self, rows: DeviceArray, slots: DeviceArray, values: DeviceArray) -> None:
        """See RowKernels."""
        torch.from_numpy(rows).index_copy_(0, torch.from_numpy(slots).long(), torch.from_numpy(values))

    def add_up(
        self, lists: UpdateLists, own_gradients: DeviceArray, arrived: DeviceArray, *, in_tree: bool
    ) -> torch.Tensor:
        """See RowKernels."""
        sums = torch.zeros((len(lists.positions), arrived.shape[1]))
        add = add_gradients_in_tree if in_tree else add_gradients
        add(
            sums.numpy(), lists.positions, own_gradients, lists.num_own, lists.rank, lists.index, lists.starts, arrived
        )  # fmt: skip
        return sums

    def update(
        self,
        rows: DeviceArray,
        lists: UpdateLists,
        own_gradients: DeviceArray,
        arrived: DeviceArray,
        optimizer: RowOptimizer,
        num_trained: int,
        *,
        in_tree: bool,
        wire: Wire = FLOAT32,
        scale: float = 1.0,
    ) -> None:
        """See RowKernels."""
        arrived = wire.unpack(torch.from_numpy(arrived), scale).numpy()
        all_rows, slots = torch.from_numpy(rows), torch.from_numpy(lists.slots)
        updated = all_rows.index_select(0, slots)
        optimizer.step(updated, self.add_up(lists, own_gradients, arrived, in_tree=in_tree), num_trained)
        all_rows.index_copy_(0, slots.long(), updated)

    def gather(self, rows: SampleRows) -> None:
        """See RowKernels."""
        self.copy_rows(rows.cache, rows.own_slots, rows.packed[: len(rows.own_slots)], rows.wire)

    def leaf(self, rows: SampleRows) -> torch.Tensor:
        """See RowKernels."""
        return rows.wire.unpack(torch.from_numpy(rows.packed))

    def pool(
        self, pooling: SamplePooling, samples: PlacedSamples, rows: SampleRows, leaf: torch.Tensor
    ) -> torch.Tensor:
        """See RowKernels."""
        return pooling(samples, leaf)

    def sequences(
        self, pooling: SamplePooling, samples: PlacedSamples, rows: SampleRows, leaf: torch.Tensor
    ) -> dict[str, JaggedSequence]:
        """See RowKernels."""
        return pooling.sequences(samples, leaf)
