"""Kernels on rows in operations of torch, for devices that numba does not reach. They never wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from bagpipe_hpc.trainer.device.base import (
    DeviceArray,
    HostArray,
    PlacedSamples,
    RowJob,
    SamplePooling,
    SampleRows,
    UpdateLists,
)
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator
from bagpipe_hpc.trainer.wire import FLOAT32, Wire

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.iteration_lists import GradientList
    from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
    from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
    from bagpipe_hpc.trainer.sample_blocks import BlockSamples


class TorchKernels:
    """RowKernels. A DeviceArray is a tensor."""

    name = "plain torch"

    def arrays_of_samples(self, job: RowJob, samples: BlockSamples, num_rows: int) -> Sequence[HostArray]:
        """See RowKernels."""
        return ()

    def arrays_of_updates(self, job: RowJob, updates: GradientList, num_trained: int) -> Sequence[HostArray]:
        """See RowKernels."""
        return ()

    def copy_rows(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, wire: Wire = FLOAT32) -> None:
        """See RowKernels."""
        out.copy_(wire.pack(rows.index_select(0, positions)[:, : out.shape[1]]))

    def copy_rows_to(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, places: DeviceArray) -> None:
        """See RowKernels."""
        out.index_copy_(0, places, rows.index_select(0, positions))

    def write_rows(self, rows: DeviceArray, slots: DeviceArray, values: DeviceArray) -> None:
        """See RowKernels."""
        rows.index_copy_(0, slots.long(), values)

    def add_up(
        self, lists: UpdateLists, own_gradients: DeviceArray, arrived: DeviceArray, *, in_tree: bool
    ) -> torch.Tensor:
        """See RowKernels."""
        own = own_gradients.index_select(0, lists.positions[: lists.num_own])
        sums = torch.zeros((len(lists.positions), arrived.shape[1]), device=own.device)
        tree = TreeAccumulator()
        starts = lists.starts.tolist()
        for trainer in range(len(starts) - 1):
            begin, end = starts[trainer], starts[trainer + 1]
            into = torch.zeros_like(sums) if in_tree else sums
            if trainer == lists.rank:
                into[: lists.num_own] += own
            elif end > begin:
                # The rows of one trainer are different ones, so each row gets its gradients in the order of trainers.
                into.index_add_(0, lists.index[begin:end], arrived[begin:end])
            if in_tree:
                tree.add(into)
        return tree.total() if in_tree else sums

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
        updated = rows.index_select(0, lists.slots)
        gradients = self.add_up(lists, own_gradients, wire.unpack(arrived, scale), in_tree=in_tree)
        optimizer.step(updated, gradients, num_trained)
        rows.index_copy_(0, lists.slots.long(), updated)

    def gather(self, rows: SampleRows) -> None:
        """See RowKernels."""
        self.copy_rows(rows.cache, rows.own_slots, rows.packed[: len(rows.own_slots)], rows.wire)

    def leaf(self, rows: SampleRows) -> torch.Tensor:
        """See RowKernels."""
        return rows.wire.unpack(rows.packed)

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
