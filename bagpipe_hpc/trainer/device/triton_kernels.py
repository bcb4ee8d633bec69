"""Kernels on rows in Triton, as a trainer calls them. `kernels.py` has the kernels.

Import this module only where a GPU is used: it imports Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton

from bagpipe_hpc.trainer.device import kernels
from bagpipe_hpc.trainer.device.base import (
    DeviceArray,
    HostArray,
    PlacedSamples,
    RowJob,
    SamplePooling,
    SampleRows,
    UpdateLists,
)
from bagpipe_hpc.trainer.device.feature_layout import DeviceLayout
from bagpipe_hpc.trainer.device.index_arrays import (
    halving_lanes,
    index_bags,
    index_leaves,
    index_terms,
    index_uses,
    pooled_samples,
)
from bagpipe_hpc.trainer.device.row_step import FusibleOptimizer, RowStep
from bagpipe_hpc.trainer.device.torch_kernels import TorchKernels
from bagpipe_hpc.trainer.wire import FLOAT32, Wire

if TYPE_CHECKING:
    from bagpipe_hpc.trainer.iteration_lists import GradientList
    from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
    from bagpipe_hpc.trainer.row_optimizer import RowOptimizer
    from bagpipe_hpc.trainer.sample_blocks import BlockSamples

NUM_BAG_ARRAYS = 2  # of the arrays of samples; the others are those of RowUses
NO_TERMS = np.empty(0, np.int32)


class TritonKernels(TorchKernels):
    """RowKernels. A DeviceArray is a tensor. What has no kernel in Triton is done by operations of torch.

    `pool` reads own rows straight from the cache: no work between `gather` and the update of the iteration writes them.
    """

    name = f"Triton {triton.__version__}"

    def arrays_of_samples(self, job: RowJob, samples: BlockSamples, num_rows: int) -> Sequence[HostArray]:
        """See RowKernels. Returns the arrays of BagIndex, then those of RowUses, of all features but sequences.

        If there are sequences, the ids and weights of the other features come first.
        """
        layout = job.layout.pooled
        if not len(layout.kinds):
            return ()
        pooled = pooled_samples(job.layout, samples) if job.layout.has_sequences else samples
        bags = index_bags(layout, pooled)
        arrays = [*bags, *index_uses(layout, pooled, bags, num_rows)]
        return [pooled.sample_rows, pooled.weights, *arrays] if job.layout.has_sequences else arrays

    def arrays_of_updates(self, job: RowJob, updates: GradientList, num_trained: int) -> Sequence[HostArray]:
        """See RowKernels. Returns ends and terms of kernels.Terms, the parameters of the step, and lanes."""
        if not isinstance(job.optimizer, FusibleOptimizer):
            return ()
        step = job.optimizer.row_step
        if job.in_tree:
            ends, terms = NO_TERMS, index_leaves(updates, job.rank)
        else:
            ends, terms = index_terms(updates, job.rank)
        return [ends, terms, step.parameters(num_trained), _lanes(step)]

    def copy_rows(self, rows: DeviceArray, positions: DeviceArray, out: DeviceArray, wire: Wire = FLOAT32) -> None:
        """See RowKernels."""
        kernels.gather_rows(rows, positions, out, wire.name)

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
        """See RowKernels. An optimizer that is no FusibleOptimizer steps in operations of torch."""
        if not isinstance(optimizer, FusibleOptimizer):
            super().update(
                rows, lists, own_gradients, arrived, optimizer, num_trained, in_tree=in_tree, wire=wire, scale=scale
            )  # fmt: skip
            return
        ends, terms, parameters, lanes = lists.own_arrays
        gradients = kernels.Terms(ends, terms, own_gradients, arrived)
        kernels.update_rows(optimizer.row_step, rows, lists.slots, gradients, parameters, lanes, wire.name, scale)

    def gather(self, rows: SampleRows) -> None:
        """See RowKernels. There is nothing to copy."""

    def leaf(self, rows: SampleRows) -> torch.Tensor:
        """See RowKernels. Its values are undefined, and it takes no memory."""
        return torch.empty((), device=rows.cache.device).expand(rows.packed.shape)

    def pool(
        self, pooling: SamplePooling, samples: PlacedSamples, rows: SampleRows, leaf: torch.Tensor
    ) -> torch.Tensor:
        """See RowKernels."""
        if not len(pooling.features.pooled.layout.kinds):
            return leaf.new_zeros(len(samples.labels), 0, leaf.shape[1])
        vectors: torch.Tensor = _Pooled.apply(leaf, pooling.features.pooled, samples, rows)  # type: ignore[no-untyped-call]
        return vectors

    def sequences(
        self, pooling: SamplePooling, samples: PlacedSamples, rows: SampleRows, leaf: torch.Tensor
    ) -> dict[str, JaggedSequence]:
        """See RowKernels."""
        return pooling.sequences(samples, _gathered(leaf, rows)) if pooling.features.layout.has_sequences else {}


def _gathered(leaf: torch.Tensor, rows: SampleRows) -> torch.Tensor:
    gathered: torch.Tensor = _Gathered.apply(leaf, rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gathered(torch.autograd.Function):
    """Copies own rows and replicas; their gradients are those of the copies."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        kernels.gather_rows(rows.cache, rows.own_slots, rows.packed[: len(rows.own_slots)], rows.wire.name)
        return rows.wire.unpack(rows.packed).detach()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _Pooled(torch.autograd.Function):
    """Pools rows; its backward pass adds up their gradients."""

    @staticmethod
    def forward(
        ctx: Any, leaf: torch.Tensor, features: DeviceLayout, samples: PlacedSamples, rows: SampleRows
    ) -> torch.Tensor:
        num_own = len(rows.own_slots)
        ctx.features, ctx.num_own, ctx.shape = features, num_own, leaf.shape
        ids, weights, own_arrays = samples.sample_rows, samples.weights, samples.own_arrays
        if features.layout.is_beside_sequences:
            ids, weights, *own_arrays = own_arrays
        ctx.uses = kernels.Uses(*own_arrays[NUM_BAG_ARRAYS:])
        offsets, weight_shifts = own_arrays[:NUM_BAG_ARRAYS]
        bags = kernels.Bags(ids, offsets, weight_shifts, weights)
        shape = len(samples.labels), len(features.layout.features), features.layout.row_dim
        out = torch.empty(shape, device=leaf.device)
        all_rows = kernels.Rows(rows.cache, rows.own_slots, rows.packed[num_own:])
        kernels.pool_rows(features, all_rows, bags, out, rows.wire.name)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (of_vectors,) = gradients
        sums = torch.empty(ctx.shape, device=of_vectors.device)
        own, replicas = sums[: ctx.num_own], sums[ctx.num_own :]
        kernels.add_row_gradients(ctx.features, of_vectors.contiguous(), ctx.uses, own, replicas)
        return sums, None, None, None


def _lanes(step: RowStep) -> HostArray:
    return halving_lanes(step.row_dim) if step.config.name == "rowwise_adagrad" else NO_TERMS
