"""A device that works as late, as early or in as odd an order as the rules of `trainer/device/base.py` allow.

Its memory is host memory, but copies and launched work only enter the queue of a stream. They run when somebody waits
for them, or earlier, as a random generator decides. Memory that was never written is full of nan and -1. So a wait that
is missing shows as wrong bits, or as an index that does not exist.

Operations of torch outside of `launch` run at once, behind the queue of the stream of their thread, which is one of the
orders that the rules allow. `on` sees to that by a dispatch mode, so every thread must name its stream.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch.utils._python_dispatch import TorchDispatchMode

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
from bagpipe_hpc.trainer.device.exposed_memory import ExposedMemory, pick
from bagpipe_hpc.trainer.device.packed_block import PackedBlock
from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels
from tests.recorded_graph import EagerRecording

Order = Literal["late", "early", "random"]
POISON = 0xFF  # nan as float32, -1 as an integer


class QueuedMark:
    """A place in a queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.is_reached = False


@dataclass
class Queue:
    """The work of a stream: functions, marks to reach, and marks of other queues to wait for."""

    items: deque[Callable[[], object] | tuple[Literal["reach", "await"], QueuedMark]]


class QueuedDevice:
    """A Device. A DeviceArray is a tensor.

    `sites` gets where the code has called what orders work: `wait`, `await_host` and `Arrival.wait`.

    Args:
        order: late: work runs when somebody waits for it. early: it runs as soon as it may. random: in between.
        seed: Seeds the random order.
        deaf_at: A site whose waits do nothing.
        limit: How many bytes of memory the device has; None: no limit.
        exposes_memory: Whether other trainers read and write its memory themselves.
    """

    def __init__(
        self,
        order: Order = "random",
        seed: int = 0,
        deaf_at: str | None = None,
        limit: int | None = None,
        exposes_memory: bool = False,
    ) -> None:
        self.name, self.torch_device = "queued", torch.device("cpu")
        self.shares_memory, self.exposes_memory = False, exposes_memory
        self.num_allocations = 0
        self.kernels: RowKernels = TorchKernels()
        self.sites: set[str] = set()
        self._order, self._random, self._deaf_at = order, random.Random(seed), deaf_at
        self._free, self._limit = limit or 0, limit
        self._queues = {(stream, is_down): Queue(deque()) for stream in Stream for is_down in (False, True)}
        self._lock = threading.RLock()
        self._of_thread = threading.local()

    # Streams.

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before = self._stream
        self._of_thread.stream = stream
        try:
            with _Behind(self):
                yield
        finally:
            self._of_thread.stream = before

    @property
    def _stream(self) -> Stream:
        stream: Stream = getattr(self._of_thread, "stream", Stream.COMPUTE)
        return stream

    def mark(self) -> Mark:
        return self._mark_in(self._queues[self._stream, False])

    def wait(self, mark: Mark) -> None:
        if isinstance(mark, QueuedMark) and self.hears("stream"):
            with self._lock:
                self._queues[self._stream, False].items.append(("await", mark))

    def launch(self, work: Callable[..., object], *args: Any) -> None:
        self.enqueue(lambda: work(*args))

    def enqueue(self, work: Callable[[], object]) -> None:
        with self._lock:
            self._queues[self._stream, False].items.append(work)
            self._progress()

    def copy_down(self, work: Callable[[], None]) -> QueuedMark:
        """Copy in the stream for copies down, behind all work so far."""
        with self._lock:
            down = self._queues[self._stream, True]
            down.items += [("await", self._mark_in(self._queues[self._stream, False])), work]
            mark = self._mark_in(down)
            self._progress()
            return mark

    def drain(self) -> None:
        """Run all work of the stream of the calling thread."""
        with self._lock:
            if not getattr(self._of_thread, "runs", False):
                self.run_until(self._mark_in(self._queues[self._stream, False]))

    def run_until(self, mark: QueuedMark) -> None:
        with self._lock:
            while not mark.is_reached:
                head = mark.queue.items[0]
                if isinstance(head, tuple) and head[0] == "await":
                    self.run_until(head[1])
                self._run_head(mark.queue)

    def _mark_in(self, queue: Queue) -> QueuedMark:
        with self._lock:
            mark = QueuedMark(queue)
            queue.items.append(("reach", mark))
            return mark

    def _run_head(self, queue: Queue) -> bool:
        """Run the next item of a queue. Return whether that was possible."""
        head = queue.items[0]
        if isinstance(head, tuple):
            if head[0] == "await" and not head[1].is_reached:
                return False
            head[1].is_reached = True
            queue.items.popleft()
            return True
        queue.items.popleft()
        before = getattr(self._of_thread, "runs", False)
        self._of_thread.runs = True
        try:
            with torch.no_grad():
                head()
        finally:
            self._of_thread.runs = before
        return True

    def _progress(self) -> None:
        """Run what may run, as far as the order wants."""
        tries = {"late": 0, "early": sys.maxsize, "random": self._random.choice((0, 0, 1, 4, 20))}[self._order]
        while tries > 0:
            filled = [queue for queue in self._queues.values() if queue.items]
            self._random.shuffle(filled)
            if not any(self._run_head(queue) for queue in filled):
                return
            tries -= 1

    def hears(self, what: str) -> bool:
        """Note where the code waits, and for what: a stream for a mark, or the host for a copy up or down.

        Returns:
            Whether it shall wait.
        """
        frame = sys._getframe(2)
        site = f"{what} in {frame.f_code.co_qualname}, line {frame.f_lineno - frame.f_code.co_firstlineno}"
        self.sites.add(site)
        return site != self._deaf_at

    # Memory.

    def arrival(self) -> Arrival:
        return _QueuedArrival(self, self._mark_in(self._queues[self._stream, False]))

    def allocate(self, num_bytes: int, *, for_peers: bool = False) -> Memory:
        self._take(num_bytes)
        self.num_allocations += 1
        if for_peers and self.exposes_memory:
            return ExposedMemory(self, torch.from_numpy(poisoned(num_bytes)))
        return _QueuedMemory(self, num_bytes)

    def pick(self, rows: Mirror, positions: DeviceArray, out: Mirror) -> Arrival:
        return pick(self, rows, positions, out)

    def empty_rows(self, num_rows: int, columns: int) -> torch.Tensor:
        self._take(4 * num_rows * columns)
        return torch.full((num_rows, columns), torch.nan)

    def _take(self, num_bytes: int) -> None:
        self._free -= num_bytes
        if self._limit is not None and self._free < 0:
            raise torch.OutOfMemoryError(f"the queued device has {self._limit} bytes, {num_bytes} more are too many")

    def block(self) -> Block:
        return PackedBlock(self)

    def keep(self, tensor: torch.Tensor, room: Callable[[int, int, DTypeLike], Mirror]) -> Mirror:
        dtype = np.int16 if tensor.dtype == torch.int16 else np.float32
        mirror = room(len(tensor), tensor.shape[1], dtype)
        self.launch(mirror.device.copy_, tensor.detach())
        return mirror

    def as_tensor(self, array: DeviceArray) -> torch.Tensor:
        tensor: torch.Tensor = array
        return tensor

    def as_input(self, array: DeviceArray) -> torch.Tensor:
        return self.as_tensor(array)

    def as_array(self, tensor: torch.Tensor) -> DeviceArray:
        return tensor

    def put(self, array: HostArray) -> DeviceArray:
        return torch.from_numpy(array).clone()

    def get(self, tensor: torch.Tensor) -> HostArray:
        self.drain()
        array: HostArray = tensor.detach().clone().numpy()
        return array

    def allocated_bytes(self) -> int:
        return 0

    def free_bytes(self, trainers_on_host: int) -> int:
        return max(0, self._free) if self._limit is not None else 1 << 33

    def autocast(self, *, enabled: bool) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext()

    def recording(self) -> Recording:
        return EagerRecording()

    def random_states(self) -> dict[str, NDArray[np.uint8]]:
        return {}

    def restore_random_states(self, states: Mapping[str, Any]) -> None:
        pass

    def keeping_random_numbers(self) -> AbstractContextManager[object]:
        return torch.random.fork_rng([])


class _Behind(TorchDispatchMode):
    """Operations of torch run behind the queue of the stream of their thread."""

    def __init__(self, device: QueuedDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:  # views look at no values
            self._device.drain()
        return func(*args, **(kwargs or {}))


def poisoned(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that is aligned as that of a device."""
    array: NDArray[np.uint8] = torch.full((num_bytes,), POISON, dtype=torch.uint8).numpy()
    return array


class _QueuedMemory:
    """A Memory whose two parts are different memory."""

    def __init__(self, device: QueuedDevice, num_bytes: int) -> None:
        self._owner = device
        self.host: NDArray[np.uint8] = np.full(num_bytes, POISON, np.uint8)
        self._device = poisoned(num_bytes)
        self._read: QueuedMark | None = None

    def view(self, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> DeviceArray:
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        return torch.from_numpy(self._device[begin : begin + num_bytes].view(dtype).reshape(shape))

    def up(self, begin: int, end: int) -> None:
        def copy() -> None:
            self._device[begin:end] = self.host[begin:end]

        self._owner.enqueue(copy)
        mark = self._owner.mark()
        assert isinstance(mark, QueuedMark)
        self._read = mark

    def down(self, begin: int, end: int) -> Arrival:
        def copy() -> None:
            self.host[begin:end] = self._device[begin:end]

        return _QueuedArrival(self._owner, self._owner.copy_down(copy))

    def await_host(self) -> None:
        if self._read is not None and self._owner.hears("up"):
            self._owner.run_until(self._read)

    def release(self) -> None:
        pass


class _QueuedArrival:
    """An Arrival."""

    def __init__(self, device: QueuedDevice, mark: QueuedMark) -> None:
        self._device, self._mark = device, mark

    def is_there(self) -> bool:
        return self._mark.is_reached

    def wait(self) -> None:
        if self._device.hears("down"):
            self._device.run_until(self._mark)
