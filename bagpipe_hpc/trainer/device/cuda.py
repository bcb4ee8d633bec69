"""A GPU as a device: streams, events, page-locked memory. `cuda_clock.py` and `gpus.py` name CUDA, too; others do not.

On AMD's GPUs torch has the same names.

The compute stream is torch's default stream, so a training loop of the user's own needs nothing. Side streams do not
wait for it by themselves. Each stream of `base.Stream` has one for copies down, so a copy delays no work but its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import cuda

from bagpipe_hpc.errors import PlatformError
from bagpipe_hpc.trainer.device.base import (
    Arrival,
    Block,
    DeviceArray,
    HostArray,
    Mark,
    Memory,
    Mirror,
    Recording,
    RowKernels,
    Stream,
)
from bagpipe_hpc.trainer.device.exposed_memory import TORCH_DTYPES, ExposedMemory, pick
from bagpipe_hpc.trainer.device.gpu_kernels import best_kernels
from bagpipe_hpc.trainer.device.gpus import num_gpus
from bagpipe_hpc.trainer.device.packed_block import PackedBlock

RANDOM_STATE = "cuda_rng"  # its name in checkpoints
WARM_UPS = 3  # as torch.cuda.make_graphed_callables does


class CudaDevice:
    """A Device. A DeviceArray is a tensor.

    Args:
        index: The number of the GPU among those that torch sees.
        kernels: Its kernels. None: `best_kernels`.
        exposes_memory: Whether MPI reads and writes the memory of GPUs.
    """

    def __init__(self, index: int, kernels: RowKernels | None = None, *, exposes_memory: bool = False) -> None:
        self.torch_device = torch.device("cuda", index)
        self.kernels: RowKernels = kernels or best_kernels()
        self.name = f"{self.torch_device} ({self.kernels.name})"
        self.num_allocations = 0
        self.shares_memory, self.exposes_memory = False, exposes_memory
        self._streams = {
            Stream.COMPUTE: cuda.default_stream(self.torch_device),
            Stream.EXCHANGE: cuda.Stream(self.torch_device),
            Stream.UPLOAD: cuda.Stream(self.torch_device),
        }
        # By the stream whose work they copy.
        self._down = {stream.cuda_stream: cuda.Stream(self.torch_device) for stream in self._streams.values()}
        # Buffers grow by doubling, so all smaller ones together are no larger than the last. They are kept, because
        # streams may still use them, and torch would give their memory to the next tensor at once.
        self._memories: list[Memory] = []

    @classmethod
    def of_rank(cls, local_rank: int, *, exposes_memory: bool = False) -> CudaDevice:
        """Return GPU `local_rank % number of GPUs`, as the current device, with deterministic algorithms.

        Args:
            local_rank: The rank of this trainer among the trainers of its host.
            exposes_memory: Whether MPI reads and writes the memory of GPUs.
        Raises:
            PlatformError: there is none.
        """
        count = num_gpus()
        if count == 0:
            raise PlatformError(
                "training.device is gpu, but torch finds no GPU: set training.device to auto or cpu, or start trainers "
                "where each sees a GPU"
            )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
        torch.use_deterministic_algorithms(True)
        # It would fill the cache and all temporary tensors with nan.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        device = cls(local_rank % count, exposes_memory=exposes_memory)
        cuda.set_device(device.torch_device)
        return device

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """See Device."""
        with cuda.stream(self._streams[stream]):  # also makes this GPU the current one of the thread
            yield

    def mark(self) -> Mark:
        """See Device."""
        event = cuda.Event()
        event.record(self._current())
        return event

    def wait(self, mark: Mark) -> None:
        """See Device."""
        if mark is not None:
            assert isinstance(mark, cuda.Event)
            self._current().wait_event(mark)

    def launch(self, work: Callable[..., object], *args: Any) -> None:
        """See Device."""
        work(*args)

    def arrival(self) -> Arrival:
        """See Device."""
        return self._arrival_of(self._current())

    def allocate(self, num_bytes: int, *, for_peers: bool = False) -> Memory:
        """See Device."""
        self.num_allocations += 1
        memory: Memory
        if for_peers and self.exposes_memory:
            memory = ExposedMemory(self, torch.empty(num_bytes, dtype=torch.uint8, device=self.torch_device))
        else:
            memory = _PinnedMemory(self, num_bytes)
        self._memories.append(memory)
        return memory

    def pick(self, rows: Mirror, positions: DeviceArray, out: Mirror) -> Arrival:
        """See Device."""
        return pick(self, rows, positions, out)

    def empty_rows(self, num_rows: int, columns: int) -> torch.Tensor:
        """See Device."""
        return torch.empty((num_rows, columns), dtype=torch.float32, device=self.torch_device)

    def block(self) -> Block:
        """See Device."""
        return PackedBlock(self)

    def keep(self, tensor: torch.Tensor, room: Callable[[int, int, DTypeLike], Mirror]) -> Mirror:
        """See Device."""
        dtype = np.int16 if tensor.dtype == torch.int16 else np.float32
        mirror = room(len(tensor), tensor.shape[1], dtype)
        mirror.device.copy_(tensor.detach())
        return mirror

    def as_tensor(self, array: DeviceArray) -> torch.Tensor:
        """See Device."""
        tensor: torch.Tensor = array
        return tensor

    def as_input(self, array: DeviceArray) -> torch.Tensor:
        """See Device. Blocks are aligned."""
        return self.as_tensor(array)

    def as_array(self, tensor: torch.Tensor) -> DeviceArray:
        """See Device."""
        return tensor

    def put(self, array: HostArray) -> DeviceArray:
        """See Device."""
        return torch.from_numpy(array).to(self.torch_device)

    def get(self, tensor: torch.Tensor) -> HostArray:
        """See Device."""
        host = _page_locked(tensor.shape, tensor.dtype)
        host.copy_(tensor.detach(), non_blocking=True)
        self.arrival().wait()
        array: HostArray = host.numpy()
        return array

    def free_bytes(self, trainers_on_host: int) -> int:
        """See Device. This is the free memory of the GPU, divided by the trainers that use it."""
        trainers_on_gpu = -(-trainers_on_host // num_gpus())
        return cuda.mem_get_info(self.torch_device)[0] // trainers_on_gpu

    def allocated_bytes(self) -> int:
        """See Device. This is what torch has reserved."""
        return cuda.memory_reserved(self.torch_device)

    def autocast(self, *, enabled: bool) -> AbstractContextManager[object]:
        """See Device."""
        return torch.autocast("cuda", torch.bfloat16, enabled=enabled)

    def recording(self) -> Recording:
        """See Device."""
        return _Graphs(self)

    def random_states(self) -> dict[str, NDArray[np.uint8]]:
        """See Device."""
        return {RANDOM_STATE: cuda.get_rng_state(self.torch_device).numpy()}

    def restore_random_states(self, states: Mapping[str, Any]) -> None:
        """See Device."""
        if RANDOM_STATE in states:
            cuda.set_rng_state(torch.from_numpy(states[RANDOM_STATE]), self.torch_device)

    def keeping_random_numbers(self) -> AbstractContextManager[object]:
        """See Device."""
        return torch.random.fork_rng([self.torch_device])

    def copy_down(self, host: torch.Tensor, device: torch.Tensor) -> Arrival:
        """Begin to copy device memory to page-locked host memory, after all work so far of the current stream."""
        current = self._current()
        down = self._down.get(current.cuda_stream, self._down[self._streams[Stream.COMPUTE].cuda_stream])
        down.wait_stream(current)
        with cuda.stream(down):
            host.copy_(device, non_blocking=True)
        return self._arrival_of(down)

    @staticmethod
    def _arrival_of(stream: cuda.Stream) -> Arrival:
        event = cuda.Event(blocking=True)  # a thread that waits for it sleeps
        event.record(stream)
        return _Arrival(event)

    def _current(self) -> cuda.Stream:
        return cuda.current_stream(self.torch_device)


class _PinnedMemory:
    """A Memory: page-locked on the host, so that copies run beside other work."""

    def __init__(self, device: CudaDevice, num_bytes: int) -> None:
        self._owner = device
        self._host = _page_locked((num_bytes,), torch.uint8)
        self._device = torch.empty(num_bytes, dtype=torch.uint8, device=device.torch_device)
        self.host: NDArray[np.uint8] = self._host.numpy()
        self._read: cuda.Event | None = None  # behind the latest copy up

    def view(self, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> DeviceArray:
        """See Memory."""
        num_bytes = math.prod(shape) * dtype.itemsize
        return self._device[begin : begin + num_bytes].view(TORCH_DTYPES[dtype]).view(shape)

    def up(self, begin: int, end: int) -> None:
        """See Memory."""
        if end > begin:
            self._device[begin:end].copy_(self._host[begin:end], non_blocking=True)
            self._read = cuda.Event(blocking=True)
            self._read.record(cuda.current_stream(self._owner.torch_device))

    def down(self, begin: int, end: int) -> Arrival:
        """See Memory."""
        return self._owner.copy_down(self._host[begin:end], self._device[begin:end])

    def await_host(self) -> None:
        """See Memory."""
        if self._read is not None:
            self._read.synchronize()
            self._read = None

    def release(self) -> None:
        """See Memory."""


class _Graphs:
    """A Recording as CUDA graphs, which have a pool of memory of their own."""

    def __init__(self, device: CudaDevice) -> None:
        self._owner = device
        self._pool = cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], None]) -> None:
        """See Recording. A stream of its own: what autograd makes must not belong to the compute stream, which cannot
        record."""
        current, side = cuda.current_stream(self._owner.torch_device), cuda.Stream(self._owner.torch_device)
        side.wait_stream(current)
        with cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        current.wait_stream(side)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See Recording. This does not do the work."""
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pool):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


class _Arrival:
    """An Arrival."""

    def __init__(self, event: cuda.Event) -> None:
        self._event = event

    def is_there(self) -> bool:
        """See Arrival."""
        return bool(self._event.query())

    def wait(self) -> None:
        """See Arrival. The event blocks the thread instead of polling."""
        self._event.synchronize()


def _page_locked(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return host memory that the GPU can copy from and to by itself."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
