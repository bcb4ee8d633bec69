"""How many bytes per second each kernel on rows moves, beside a plain copy of as many bytes on the same device.

The bytes are those of docs/gpu.md, section "What they cost". Each id counts, also if the device finds its row in a near
cache, so a kernel may seem faster than a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from bagpipe_hpc.bench.gpu.resident import ResidentBatch, ResidentModel
from bagpipe_hpc.trainer.device.base import Device
from bagpipe_hpc.trainer.device.device_clock import DeviceClock, milliseconds_per_call

ROUNDS, CALLS = 5, 10  # calls of a round follow one another


@dataclass(frozen=True)
class RowCounts:
    """What the kernels of an iteration work on.

    Args:
        rows: Different rows.
        ids: Ids of all samples.
        vectors: Vectors of all samples.
        row_dim: Trained columns of a row, D.
        row_width: All columns of a row, W.
    """

    rows: int
    ids: int
    vectors: int
    row_dim: int
    row_width: int

    def bytes_of(self, kernel: str) -> int:
        """Return the bytes that a kernel reads and writes. All rows are own rows, and each has one gradient."""
        dim, width = self.row_dim, self.row_width
        return {
            "gather_rows": self.rows * (8 * dim + 4),
            "pool_rows": self.ids * (4 * dim + 8) + self.vectors * 4 * dim,
            "add_row_gradients": (self.ids + self.rows) * (4 * dim + 4),
            "update_rows": self.rows * (8 * width + 4 + 4 * dim + 4),
        }[kernel]


@dataclass(frozen=True)
class Bandwidth:
    """The figures of one kernel.

    Args:
        num_bytes: The bytes of a call.
        milliseconds: The time of a call, in the fastest round.
        copy_milliseconds: The time of a copy that reads half of the bytes and writes the other half, likewise.
    """

    num_bytes: int
    milliseconds: float
    copy_milliseconds: float

    @property
    def gigabytes_per_second(self) -> float:
        """The bandwidth in GB/s."""
        return self.num_bytes / 1e6 / self.milliseconds

    @property
    def share_of_copy(self) -> float:
        """The bandwidth divided by that of the copy."""
        return self.copy_milliseconds / self.milliseconds


def measure_kernels(model: ResidentModel, batch: ResidentBatch, clock: DeviceClock) -> dict[str, Bandwidth]:
    """Return the figures of each kernel by its name.

    Args:
        model: Has the rows, which the update changes.
        batch: The batch that the kernels work on.
        clock: The clock of the device.
    """
    num_rows, num_samples = len(batch.lists.positions), len(batch.samples.labels)
    num_ids = len(batch.samples.sample_rows)
    counts = RowCounts(num_rows, num_ids, num_ids, model.row_dim, model.row_width)
    assert num_ids % num_samples == 0, "samples have one id in each table"
    works = _works(model, batch)
    return {name: _measure(model.device, work, counts.bytes_of(name), clock) for name, work in works}


def _works(model: ResidentModel, batch: ResidentBatch) -> Iterable[tuple[str, Callable[[], object]]]:
    kernels, rows = model.device.kernels, model.rows_of(batch)
    yield "gather_rows", lambda: kernels.copy_rows(rows.cache, batch.slots, batch.packed)
    leaf = kernels.leaf(rows).detach()

    def pool() -> None:
        with torch.no_grad():
            model.pool(batch, rows, leaf)

    yield "pool_rows", pool
    with_gradients = leaf.requires_grad_()
    vectors = model.pool(batch, rows, with_gradients)
    of_vectors = torch.full_like(vectors, 1e-9)
    yield "add_row_gradients", lambda: torch.autograd.grad(vectors, with_gradients, of_vectors, retain_graph=True)
    gradients = torch.full((len(batch.lists.positions), model.row_dim), 1e-9, device=vectors.device)
    yield "update_rows", lambda: model.update(batch, gradients)


def _measure(device: Device, work: Callable[[], object], num_bytes: int, clock: DeviceClock) -> Bandwidth:
    columns = max(1, num_bytes // 8)  # float32; half of the bytes are read, the other half written
    source, target = (device.empty_rows(1, columns).zero_() for _ in range(2))
    works: tuple[Callable[[], object], ...] = (work, lambda: target.copy_(source))
    for each in works:
        each()  # compiles the kernel
    rounds = [[milliseconds_per_call(clock, each, CALLS) for each in works] for _ in range(ROUNDS)]
    times = [max(min(column), 1e-6) for column in zip(*rounds, strict=True)]
    return Bandwidth(num_bytes, *times)
