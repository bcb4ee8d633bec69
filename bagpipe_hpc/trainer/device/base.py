"""What a trainer asks of its device. The step, the cache and the pooling say what moves; a device says how.

`cpu.py` is the twin on the CPU: host and device share their memory, so nothing is copied and nothing waits. `cuda.py`
is a GPU. `tests/queued_device.py` is a device that delays its work as long as the rules below allow, which tests them.

**Streams.** A device works through several queues of work, its streams, at the same time. Each thread of a trainer has
one. Work of one stream runs in the order in which it was given out. Work of two streams has no order, unless a stream
waits for a *mark* in the other one (`mark`, `wait`). The host runs ahead of all of them.

    thread      stream                     its work
    main        COMPUTE                    rows of samples, the model, critical updates, dense parameters
    exchange    EXCHANGE                   inserted rows, early pushes, delayed updates, rows that leave
    prefetch    UPLOAD                     one copy per iteration: fetched rows, index arrays, samples
    each        one more, for copies down  pushed rows, gradients of replicas, rows that leave, dense gradients

**What moves.** All that an iteration needs and its plan says is packed into one block (`Block`) and goes up in one
copy. Rows that peers send, and gradients from them, land in the exposed part of a buffer (`Mirror`) and go up from
there. Rows and gradients for peers and servers come down into the exposed part of such a buffer. The host waits for the
end of that copy alone (`Arrival.wait`), and for nothing else of the device.

The exposed part is host memory. Only if MPI reads and writes device memory (`Device.exposes_memory`), buffers for peers
have one part, in device memory: then nothing goes up or comes down, and the waits remain.

**Order between streams.** Each of these edges is a mark of one thread that another one waits for.

    upload of n        -> start of n          (UPLOAD -> EXCHANGE)   start inserts the fetched rows
    start of n         -> gather of n         (EXCHANGE -> COMPUTE)  gather reads rows that were inserted, or updated
                                                                     by the finish before this start; kernels may read
                                                                     them in the cache until the apply of n
    start of n         -> critical pushes of n, if they begin in the apply of n - 1: they read the same rows
    compute of n       -> finish of n         (COMPUTE -> EXCHANGE)  finish sums gradients, and reads rows that apply
                                                                     has updated; rows that were used may leave after it
    start, finish      -> the next of them    in whatever stream it runs: around a snapshot the main thread plays both
    finish of n        -> upload into the block of n  (EXCHANGE -> UPLOAD)  all work that reads the block came before
    finish of n        -> the next use of its buffers (EXCHANGE -> COMPUTE) likewise: apply keeps gradients in buffers

The update of an iteration and the critical pushes of the next one are work of the same stream, so they need no mark.

**Order between host and device.** Before the host writes into the host part of a buffer again, the copies up that read
it are over (`Memory.await_host`). Before it reads what came down, the copy is over (`Arrival.wait`). A copy down begins
after all work that was given to the stream of the calling thread before it.

MPI does not know streams. So where it reads and writes device memory, the host keeps the order. Before peers read rows,
the work that writes them is over (`Arrival.wait`). Before rows from peers may land, the work that reads what landed
there before is over (`Mirror.release`, then `Memory.await_host` in the next use). All work that is given to a stream
after they have landed sees them.

**Memory.** All buffers that two streams use are allocated once, by `allocate`, and live as long as the device. Tensors
that torch allocates are used in the stream of the thread that made them, and in no other one (`keep` copies where one
must live longer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from bagpipe_hpc.trainer.wire import FLOAT32, Wire

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.device.feature_layout import DeviceLayout, FeatureLayout
    from bagpipe_hpc.trainer.iteration_lists import GradientList
    from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
    from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
    from bagpipe_hpc.trainer.sample_blocks import BlockSamples

Bytes = NDArray[np.uint8]
HostArray = NDArray[Any]
# A numpy array on the CPU, a tensor on a GPU. Slices of it are DeviceArrays too. Kernels know which of both it is;
# `Device.as_tensor` makes a tensor of it.
DeviceArray: TypeAlias = Any
Mark: TypeAlias = object
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # maps (dense, embedded) to logits


class Stream(Enum):
    """The queues that threads give work to."""

    COMPUTE = "compute"
    EXCHANGE = "exchange"
    UPLOAD = "upload"


class Arrival(Protocol):
    """A copy on its way to host memory."""

    def is_there(self) -> bool:
        """Return whether the copy is complete."""

    def wait(self) -> None:
        """Wait until the copy is complete, without keeping a core busy."""


class Memory(Protocol):
    """The same number of bytes in host memory and in device memory. On the CPU both are the same memory.

    Memory for peers that read and write device memory (`ExposedMemory`) has no bytes in host memory.
    """

    host: Bytes

    def view(self, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> DeviceArray:
        """Return an array in the device memory that begins at a byte, a multiple of 16."""

    def up(self, begin: int, end: int) -> None:
        """Copy the bytes from begin to end up, as work of the stream of the calling thread."""

    def down(self, begin: int, end: int) -> Arrival:
        """Copy the bytes from begin to end down, after all work so far of the stream of the calling thread."""

    def await_host(self) -> None:
        """Wait until the copies up that have begun no longer read the host memory.

        If peers write into the device memory: wait until the work before `release` no longer reads it.
        """

    def release(self) -> None:
        """Note that later work of the stream of the calling thread does not read what peers have written so far."""


class Block(Protocol):
    """Room for all that one iteration needs from the host. A thread fills it; it serves until the iteration is over."""

    def pack(self, num_rows: int, row_width: int, arrays: Sequence[HostArray]) -> NDArray[np.float32]:
        """Take the arrays of an iteration, and return host memory for its fetched rows.

        Args:
            num_rows: The number of fetched rows.
            row_width: The number of columns of a row.
            arrays: C-contiguous arrays. They do not change as long as the block serves.
        Returns:
            float32, shape (num_rows, row_width). The contents are undefined.
        """

    def place(self) -> list[DeviceArray]:
        """Bring the fetched rows and the arrays to the device. Returns the rows, then the arrays in their order.

        On a GPU this begins one copy, as work of the stream of the calling thread.
        """

    def release(self, mark: Mark) -> None:
        """Note that no work behind the mark uses the block, so that it can serve another iteration."""


@dataclass(frozen=True)
class UpdateLists:
    """Which owned rows a part of an iteration updates, and which gradients are theirs.

    Args:
        slots: Slots of the n rows, int32, shape (n,).
        positions: Positions of the rows in TrainerPlan.update_slots, int64, shape (n,), ascending.
        num_own: The number of the first rows that own samples use. The own gradient of row k < num_own is
            own_gradients[positions[k]].
        index: The row, from 0 to n - 1, of each gradient that arrives, int64, shape (m,), trainer by trainer. The rows
            of one trainer are different ones.
        starts: Where the gradients of each trainer begin in `index`, int64, shape (T + 1,), in host memory.
        rank: The rank of this trainer among the trainers.
        own_arrays: What RowKernels.arrays_of_updates has made.
    """

    slots: DeviceArray
    positions: DeviceArray
    num_own: int
    index: DeviceArray
    starts: NDArray[np.int64]
    rank: int
    own_arrays: Sequence[DeviceArray] = ()


@dataclass(frozen=True)
class PlacedSamples:
    """The samples of a block on the device.

    Args:
        labels: float32, shape (b,) or (b, num_labels).
        dense: float32, shape (b, num_dense).
        sample_rows: See BlockSamples.
        bag_lengths: See BlockSamples.
        weights: See BlockSamples.
        num_ids: The number of ids in each ragged feature, in table order, in host memory.
        lengths_on_host: `bag_lengths` in host memory.
        own_arrays: What RowKernels.arrays_of_samples has made.
        sample_weights: float32, shape (b,) or (0,), as in TrainerPlan.
        groups: int64, shape (b,) or (0,), as in TrainerPlan.
        loss_divisors: float32, shape (num_labels,) or (0,), as in TrainerPlan.
        integers: The integer values of ids, int64, as in TrainerPlan.
        item_counts: int64, shape (b,) or (0,), as in TrainerPlan.
        positive_weights: float32, shape (num_labels,) or (0,), as in TrainerPlan.
    """

    labels: torch.Tensor
    dense: torch.Tensor
    sample_rows: torch.Tensor
    bag_lengths: torch.Tensor
    weights: torch.Tensor
    num_ids: list[int]
    own_arrays: Sequence[DeviceArray] = ()
    sample_weights: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    groups: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    loss_divisors: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    integers: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    item_counts: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    positive_weights: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    lengths_on_host: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))


class SamplePooling(Protocol):
    """What makes the vectors of samples from rows, in operations of torch; see trainer/pooling.py.

    `features` says how, for kernels that do it themselves.
    """

    features: DeviceLayout

    def __call__(self, samples: PlacedSamples, rows: torch.Tensor) -> torch.Tensor:
        """Return a vector for each sample and feature, float32, shape (num_samples, num_features, row_dim).

        Args:
            samples: The samples.
            rows: float32, shape (num_rows, row_dim): own rows, then replicas. The result is a copy.
        """

    def sequences(self, samples: PlacedSamples, rows: torch.Tensor) -> dict[str, JaggedSequence]:
        """Return the rows and values of each sequence that is not pooled, by its name. Arguments as above."""


@dataclass(frozen=True)
class SampleRows:
    """The rows of the samples of an iteration: own rows, then replicas.

    Args:
        cache: All rows of the cache, float32, shape (num_slots, row_width).
        own_slots: Slots of the own rows, int32, shape (num_own,).
        packed: Room for own rows, then the replicas, in the format of the wire, float32 or int16, shape (n, row_dim).
        wire: The format.
    """

    cache: DeviceArray
    own_slots: DeviceArray
    packed: DeviceArray
    wire: Wire


@dataclass(frozen=True)
class RowJob:
    """What kernels need to know of a job to make index arrays.

    Args:
        layout: The features.
        optimizer: Updates rows.
        rank: The rank of this trainer among the trainers.
        in_tree: Whether gradients of trainers are added in the order of a binary tree.
    """

    layout: FeatureLayout
    optimizer: RowOptimizer
    rank: int
    in_tree: bool


class RowKernels(Protocol):
    """Work on rows in device memory. Each call is work of the stream of the calling thread.

    Kernels may need index arrays of their own. The prefetch thread makes them from the plan (`arrays_of_samples`,
    `arrays_of_updates`), and they travel with the block of the iteration. `name` is the name for users.
    """

    name: str

    def arrays_of_samples(self, job: RowJob, samples: BlockSamples, num_rows: int) -> Sequence[HostArray]:
        """Return arrays for a block of samples. They come to `PlacedSamples.own_arrays`.

        Args:
            job: The job.
            samples: The samples.
            num_rows: The number of rows of the trainer in this iteration: own rows, then replicas.
        """

    def arrays_of_updates(self, job: RowJob, updates: GradientList, num_trained: int) -> Sequence[HostArray]:
        """Return arrays for the update of rows. They come to `UpdateLists.own_arrays`.

        Args:
            job: The job.
            updates: The rows, and the gradients that arrive.
            num_trained: See RowOptimizer.
        """

    def copy_rows(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, wire: Wire = FLOAT32) -> None:
        """Copy rows, and of each row as many columns as there is room for.

        Args:
            rows: float32, shape (m, columns).
            positions: Positions of the rows to copy, int32 or int64, shape (n,).
            out: Gets the copies in the format of the wire, float32 or int16, shape (n, at most columns).
            wire: The format.
        """

    def copy_rows_to(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, places: DeviceArray) -> None:
        """Copy rows to places: out[places[k]] = rows[positions[k]].

        Args:
            rows: float32, shape (m, columns).
            positions: int32, shape (n,).
            out: float32, shape (at least n, columns).
            places: int64, shape (n,), without repetitions.
        """

    def write_rows(self, rows: DeviceArray, slots: DeviceArray, values: DeviceArray) -> None:
        """Overwrite rows.

        Args:
            rows: float32, shape (m, columns).
            slots: int32, shape (n,), without repetitions.
            values: float32, shape (n, columns).
        """

    def add_up(
        self, lists: UpdateLists, own_gradients: DeviceArray, arrived: DeviceArray, *, in_tree: bool
    ) -> torch.Tensor:
        """Add up the gradients of owned rows.

        Args:
            lists: The rows, and which gradients are theirs.
            own_gradients: Gradients of this trainer's samples, float32, shape (num_own, row_dim).
            arrived: Gradients from the other trainers, float32, shape (m, row_dim).
            in_tree: Whether the trainers, a power of two, are added in the order of a binary tree; if not, in ascending
                order.
        Returns:
            float32, shape (n, row_dim). The same bits on every device.
        """

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
        """Add up the gradients of owned rows and make one step of the optimizer on these rows.

        Args:
            rows: All rows of the cache, float32, shape (num_slots, row_width).
            lists: See `add_up`.
            own_gradients: See `add_up`.
            arrived: Gradients from the other trainers, in the format of the wire, float32 or int16, shape (m, row_dim).
            optimizer: Makes the step.
            num_trained: See RowOptimizer.
            in_tree: See `add_up`.
            wire: The format of `arrived`.
            scale: The scale of `arrived`, see Wire.
        """

    def gather(self, rows: SampleRows) -> None:
        """Copy own rows to their places in `rows.packed`, unless `pool` reads them in the cache."""

    def leaf(self, rows: SampleRows) -> torch.Tensor:
        """Return the tensor that backward gives the gradients of rows, after `gather`.

        Its values are those of the rows, or undefined if `pool` does not need them.

        Returns:
            float32, shape (n, row_dim). A later iteration may reuse its memory.
        """

    def pool(
        self, pooling: SamplePooling, samples: PlacedSamples, rows: SampleRows, leaf: torch.Tensor
    ) -> torch.Tensor:
        """Return a vector for each sample and feature. Backward adds up the gradients of each row, in one order.

        Args:
            pooling: Says what to do.
            samples: The samples.
            rows: Their rows.
            leaf: What `leaf` has returned for these rows; it gets the gradients.
        Returns:
            float32, shape (num_samples, num_features, row_dim).
        """

    def sequences(
        self, pooling: SamplePooling, samples: PlacedSamples, rows: SampleRows, leaf: torch.Tensor
    ) -> dict[str, JaggedSequence]:
        """Return the sequences that are not pooled, by name. Arguments and backward are those of `pool`."""


class Recording(Protocol):
    """Records work of a device that has no input from the host, so that the host can give it out again by one call.

    All recordings of one object share memory, so they are replayed in the order in which they were recorded.
    """

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do work a few times, so that libraries allocate what they keep before it is recorded."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the operations of torch in `work`. This may or may not do them.

        No other thread of this process uses the device meanwhile.

        Returns:
            A function that gives the work to the stream of the calling thread. The tensors that `work` has made have
            its results. The caller keeps them.
        """


class Device(Protocol):
    """A device, as a trainer needs it.

    `name` is the name for users. `shares_memory` says whether host and device share their memory; results are then
    there when a call returns, and later if not. `exposes_memory` says whether other trainers read and write its memory
    themselves, so that rows for them need no copy in host memory. `num_allocations` is the number of buffers that were
    allocated.
    """

    name: str
    torch_device: torch.device
    shares_memory: bool
    exposes_memory: bool
    num_allocations: int
    kernels: RowKernels

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """Make this the stream of the calling thread inside the block. Without it, the stream is COMPUTE."""

    def mark(self) -> Mark:
        """Return a mark behind all work so far of the stream of the calling thread."""

    def wait(self, mark: Mark) -> None:
        """Let later work of the stream of the calling thread wait for the work before a mark. The host goes on.

        Args:
            mark: None: there is nothing to wait for.
        """

    def launch(self, work: Callable[..., object], *args: Any) -> None:
        """Give work to the stream of the calling thread. It calls kernels or operations of torch, without gradients."""

    def arrival(self) -> Arrival:
        """Return the end of all work so far of the stream of the calling thread, for the host to wait for."""

    def allocate(self, num_bytes: int, *, for_peers: bool = False) -> Memory:
        """Return new memory. Its contents are undefined. It lives as long as the device.

        Args:
            num_bytes: The number of bytes.
            for_peers: Whether other trainers read and write it; see `exposes_memory`.
        """

    def pick(self, rows: Mirror, positions: DeviceArray, out: Mirror) -> Arrival:
        """Copy rows from the exposed part of a mirror to that of another one, so that peers can read them.

        Args:
            rows: float32 or int16, shape (m, columns).
            positions: Positions of the n rows, int64, shape (n,), in device memory if the device exposes its memory,
                otherwise in host memory.
            out: Gets the rows, of the same dtype, shape (n, columns).
        Returns:
            When the rows are there.
        """

    def empty_rows(self, num_rows: int, columns: int) -> torch.Tensor:
        """Return float32 rows of this shape. Their contents are undefined. On the CPU, they cost memory when used."""

    def block(self) -> Block:
        """Return a new block."""

    def keep(self, tensor: torch.Tensor, room: Callable[[int, int, DTypeLike], Mirror]) -> Mirror:
        """Return rows so that other streams may read them, and with room in host memory to copy them down.

        Args:
            tensor: float32 or int16, shape (n, columns), made by the calling thread.
            room: Returns memory for rows: their number, columns and dtype. On the CPU it is not called: the result is
                the memory of the tensor.
        """

    def as_tensor(self, array: DeviceArray) -> torch.Tensor:
        """Return the tensor that shares the memory of a DeviceArray."""

    def as_input(self, array: DeviceArray) -> torch.Tensor:
        """Return an array as an input of the model: a tensor in memory that is aligned to 64 bytes.

        An array of a plan begins anywhere in the message of the plan. Matrix products of MKL may give other bits where
        their arguments are aligned in another way.
        """

    def as_array(self, tensor: torch.Tensor) -> DeviceArray:
        """Return the DeviceArray that shares the memory of a tensor of this device. The tensor needs no gradient."""

    def put(self, array: HostArray) -> DeviceArray:
        """Return a host array in device memory. The host waits; for what is not part of every iteration."""

    def get(self, tensor: torch.Tensor) -> HostArray:
        """Return a tensor in host memory, C-contiguous. The host waits for the stream of the calling thread.

        On the CPU a contiguous tensor shares its memory with the result.
        """

    def free_bytes(self, trainers_on_host: int) -> int:
        """Return the bytes of device memory that a trainer may use: its part of what is free."""

    def allocated_bytes(self) -> int:
        """Return the bytes that this process has allocated in device memory; 0 if that is the memory of the host."""

    def autocast(self, *, enabled: bool) -> AbstractContextManager[object]:
        """Let the model compute in bfloat16 inside the block wherever torch regards that as safe, if enabled."""

    def recording(self) -> Recording:
        """Return what records work.

        Raises:
            ExecutionError: this device does not record work.
        """

    def random_states(self) -> dict[str, NDArray[np.uint8]]:
        """Return the states of this device's own random number generators by name; none on the CPU."""

    def restore_random_states(self, states: Mapping[str, Any]) -> None:
        """Restore what `random_states` returned, as far as it is in `states`. Raises what torch raises."""

    def keeping_random_numbers(self) -> AbstractContextManager[object]:
        """Give the random number generators of torch, on host and device, their former states back after the block."""


class Mirror:
    """Rows in device memory, and where other ranks and the host read and write them. On the CPU both is the same.

    Args:
        memory: The memory, from its first byte. None: `exposed` and `device` are the same memory of the CPU.
        exposed: The rows for other ranks and for the host, float32 or int16, shape (n, columns), C-contiguous. They are
            in host memory, but those for peers may be in device memory: see `Device.exposes_memory`.
        device: The same rows in device memory.
    """

    __slots__ = ("_memory", "device", "exposed")

    def __init__(self, memory: Memory | None, exposed: DeviceArray, device: DeviceArray) -> None:
        self._memory, self.exposed, self.device = memory, exposed, device

    @property
    def host(self) -> HostArray:
        """The exposed rows of a mirror that is not for peers: they are in host memory."""
        array: HostArray = self.exposed
        return array

    def up(self, first: int = 0) -> None:
        """Copy the rows from `first` on up, as work of the stream of the calling thread. Exposed ones are there."""
        begin = first * self._row_bytes
        if self._memory is not None and begin < self.exposed.nbytes:
            self._memory.up(begin, self.exposed.nbytes)

    def down(self, first: int = 0) -> Arrival:
        """Copy the rows from `first` on down, after all work so far of the stream of the calling thread.

        If they are in exposed device memory, nothing is copied: they arrive with the end of that work.
        """
        begin = first * self._row_bytes
        if self._memory is None or begin == self.exposed.nbytes:
            return ARRIVED
        return self._memory.down(begin, self.exposed.nbytes)

    def release(self) -> None:
        """Note that later work of the stream of the calling thread does not read what peers have written so far."""
        if self._memory is not None:
            self._memory.release()

    @property
    def _row_bytes(self) -> int:
        return int(self.exposed.itemsize * self.exposed.shape[1])


class _Arrived:
    """The arrival of what needed no copy."""

    def is_there(self) -> bool:
        """See Arrival."""
        return True

    def wait(self) -> None:
        """See Arrival."""


ARRIVED: Arrival = _Arrived()
