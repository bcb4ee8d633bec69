"""All that an iteration needs from the host and that its plan says, on the device of the trainer.

prefetch thread                                            threads that play the iteration
  1 `pack`: lists and samples into a block
  2 the fetched rows land in the block
  3 `place`: the block goes up, as work of UPLOAD   ---->   4 `start` waits for the mark, the others for `start`
                                                            5 after `finish`: `release`, and the block serves again
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.device.base import (
    Block,
    Device,
    DeviceArray,
    HostArray,
    Mark,
    PlacedSamples,
    RowJob,
    UpdateLists,
)
from bagpipe_hpc.trainer.gray_blocks import GrayBlocks
from bagpipe_hpc.trainer.iteration_lists import GradientList, IterationLists, lists_of
from bagpipe_hpc.trainer.sample_blocks import BlockSamples, BlockShare, blocks_of

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class PlacedLeaving:
    """The rows that an iteration writes back, as in LeavingList."""

    forced_slots: DeviceArray
    forced_places: DeviceArray
    other_slots: DeviceArray
    other_places: DeviceArray


@dataclass(frozen=True)
class PlacedPushes:
    """The owned rows that a part of an iteration pushes: their slots on the device, and the number for each trainer."""

    slots: DeviceArray
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class PlacedUpdates:
    """The owned rows that a part of an iteration updates, and the number of gradients from each trainer."""

    lists: UpdateLists
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class PlacedIteration:
    """An iteration, ready to start.

    Args:
        plan: The plan of the iteration.
        placed: All of the upload lies before this mark.
        block: Holds the arrays on the device until `finish`.
        fetched: The fetched rows, float32, shape (n, row_width).
        fetch_slots: TrainerPlan.inserted_slots.
        own_slots: Slots of the rows that this trainer owns and uses itself, int32, shape (num_own,).
        leaving: The rows that it writes back.
        early_pushes: The rows that `start` pushes.
        critical_pushes: The rows that `gather` pushes.
        critical: The rows that `apply` updates.
        delayed: The rows that `finish` updates.
        replicated: The replicas that the trainer gets, in host memory.
        delayed_replicas: See IterationLists; in device memory if the device exposes its memory to peers, otherwise in
            host memory.
        samples: Of each block.
    """

    plan: TrainerPlan
    placed: Mark
    block: Block
    fetched: DeviceArray
    fetch_slots: DeviceArray
    own_slots: DeviceArray
    leaving: PlacedLeaving
    early_pushes: PlacedPushes
    critical_pushes: PlacedPushes
    critical: PlacedUpdates
    delayed: PlacedUpdates
    replicated: GrayBlocks
    delayed_replicas: DeviceArray
    samples: list[PlacedSamples]


class IterationPlacer:
    """Packs and places the iterations of one trainer, one after the other, in one thread.

    Args:
        device: The device of the trainer.
        job: Features and optimizer of the job, for the index arrays of kernels.
        row_width: The number of columns of a row.
        is_overlapped: Whether iterations overlap.
        share: The blocks of samples that this trainer computes.
    """

    def __init__(
        self,
        device: Device,
        job: RowJob,
        *,
        row_width: int,
        is_overlapped: bool,
        share: BlockShare,
    ) -> None:
        self._device, self._job, self._row_width = device, job, row_width
        self._is_overlapped = is_overlapped
        self._share, self._kinds = share, job.layout.feature_kinds
        self._free: list[Block] = []  # P + 4: one filled, P queued, three in play; its append and pop are atomic

    def pack(self, plan: TrainerPlan) -> PackedIteration:
        """Compute the lists of an iteration, and take a block that holds them and has room for the fetched rows."""
        lists = lists_of(plan, is_overlapped=self._is_overlapped)
        samples = list(blocks_of(plan, self._share, self._kinds))
        kernels, job, num_rows = self._device.kernels, self._job, plan.num_own + len(lists.replicated)
        of_kernels = [
            list(kernels.arrays_of_updates(job, updates, plan.num_trained_after))
            for updates in (lists.critical, lists.delayed)
        ]
        of_kernels += [list(kernels.arrays_of_samples(job, each, num_rows)) for each in samples]
        block = self._free.pop() if self._free else self._device.block()
        picked = lists.delayed_replicas if self._device.exposes_memory else lists.delayed_replicas[:0]
        arrays = [picked, *_arrays(plan, lists, samples), *chain.from_iterable(of_kernels)]
        rows = block.pack(len(plan.inserted_slots), self._row_width, arrays)
        return PackedIteration(plan, lists, samples, block, rows, [len(each) for each in of_kernels])

    def place(self, packed: PackedIteration) -> PlacedIteration:
        """Bring an iteration to the device, after its fetched rows have landed."""
        plan, lists = packed.plan, packed.lists
        placed = packed.block.place()
        mark = self._device.mark()
        arrays, of_kernels = iter(placed), iter(placed[len(placed) - sum(packed.of_kernels) :])
        own = [list(islice(of_kernels, count)) for count in packed.of_kernels]
        fetched, picked, fetch_slots, update_slots = next(arrays), next(arrays), next(arrays), next(arrays)
        return PlacedIteration(
            plan,
            mark,
            packed.block,
            fetched,
            fetch_slots,
            update_slots[: plan.num_own],
            PlacedLeaving(next(arrays), next(arrays), next(arrays), next(arrays)),
            PlacedPushes(next(arrays), lists.early_pushes.counts),
            PlacedPushes(next(arrays), lists.critical_pushes.counts),
            self._updates(lists.critical, arrays, own[0]),
            self._updates(lists.delayed, arrays, own[1]),
            lists.replicated,
            picked if self._device.exposes_memory else lists.delayed_replicas,
            [self._samples(each, arrays, mine) for each, mine in zip(packed.samples, own[2:], strict=True)],
        )

    def release(self, iteration: PlacedIteration, mark: Mark) -> None:
        """Note that no work behind the mark uses the arrays of an iteration."""
        iteration.block.release(mark)
        self._free.append(iteration.block)

    def _updates(
        self, updates: GradientList, arrays: Iterator[DeviceArray], own: Sequence[DeviceArray]
    ) -> PlacedUpdates:
        positions, slots, index = next(arrays), next(arrays), next(arrays)
        lists = UpdateLists(slots, positions, updates.num_own, index, updates.starts, self._job.rank, own)
        return PlacedUpdates(lists, updates.counts)

    def _samples(
        self, samples: BlockSamples, arrays: Iterator[DeviceArray], own: Sequence[DeviceArray]
    ) -> PlacedSamples:
        labels, dense = (self._device.as_input(next(arrays)) for _ in range(2))
        rows, lengths, weights = (self._device.as_tensor(next(arrays)) for _ in range(3))
        targets = [self._device.as_tensor(next(arrays)) for _ in range(6)]
        num_ids = samples.bag_lengths.sum(axis=1).tolist() if len(samples.bag_lengths) else []
        return PlacedSamples(
            labels, dense, rows, lengths, weights, num_ids, own,
            sample_weights=targets[0], groups=targets[1], loss_divisors=targets[2], integers=targets[3],
            lengths_on_host=samples.bag_lengths, item_counts=targets[4], positive_weights=targets[5],
        )  # fmt: skip


@dataclass(frozen=True)
class PackedIteration:
    """An iteration on its way to the device.

    Args:
        plan: The plan of the iteration.
        lists: Its lists.
        samples: The samples of each block.
        block: Holds all arrays.
        rows: Room for the fetched rows, float32, shape (n, row_width), in the block.
        of_kernels: The number of arrays of the kernels, for `critical`, `delayed` and each block of samples. They are
            the last arrays of the block.
    """

    plan: TrainerPlan
    lists: IterationLists
    samples: list[BlockSamples]
    block: Block
    rows: Float32Array
    of_kernels: list[int]


def _arrays(plan: TrainerPlan, lists: IterationLists, samples: list[BlockSamples]) -> Iterator[HostArray]:
    """Yield all arrays of an iteration, in the order in which `IterationPlacer.place` takes them."""
    leaving = lists.leaving
    yield from (plan.inserted_slots, plan.update_slots)
    yield from (leaving.forced_slots, leaving.forced_places, leaving.other_slots, leaving.other_places)
    yield from (lists.early_pushes.slots, lists.critical_pushes.slots)
    for updates in (lists.critical, lists.delayed):
        yield from (updates.positions, updates.slots, updates.index)
    for block in samples:
        yield from (block.labels, block.dense, block.sample_rows, block.bag_lengths, block.weights)
        yield from (block.sample_weights, block.groups, block.loss_divisors, block.integers)
        yield from (block.item_counts, block.positive_weights)
