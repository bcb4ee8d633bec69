"""The kernels of a trainer as functions of tensors: gather, pool, gradients of rows, update.

All of them work on the device of their tensors and return before the device has finished. None communicates, waits for
the device or allocates. All tensors are C-contiguous and on one device. Positions and slots are not checked: the plan
has them right. The plain torch code in trainer/pooling.py, trainer/row_kernels.py and trainer/row_optimizer.py is the
reference: the results are the same bits. docs/gpu.md says where this does not hold.

Import this module only where a GPU is used: it imports Triton. If TRITON_INTERPRET=1 is set when Triton functions are
imported, they run in Triton's interpreter, on tensors in host memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton

from bagpipe_hpc.trainer.device.feature_layout import DeviceLayout
from bagpipe_hpc.trainer.device.index_arrays import HOT_USES
from bagpipe_hpc.trainer.device.pooling_kernels import (
    add_row_gradients_kernel,
    gather_rows_kernel,
    pool_rows_kernel,
)
from bagpipe_hpc.trainer.device.row_step import NUM_PARAMETERS, RowStep
from bagpipe_hpc.trainer.device.update_kernel import update_rows_kernel
from bagpipe_hpc.trainer.wire import WireDtype

Tensor = torch.Tensor

# Elements of a tile, and warps that work on it: 4 to 16 elements per thread, so 1 to 4 loads of 16 bytes are under way.
COPY_ELEMENTS, COPY_WARPS = 2048, 4
SUM_ELEMENTS, SUM_WARPS = 256, 1
UPDATE_ELEMENTS, UPDATE_WARPS = 1024, 4
# How many uses of a row are loaded before the first of them is added. A program of a hot row has one row and only some
# of its columns, so it has registers for many uses.
UNROLL, HOT_UNROLL, HOT_COLUMNS = 8, 64, 32
IS_INTERPRETED = not isinstance(gather_rows_kernel, triton.JITFunction)


class Rows(NamedTuple):
    """The rows of an iteration: own rows in the cache, then replicas.

    Args:
        cache: float32, shape (num_slots, row_width).
        own_slots: The slots of the own rows, int32, shape (num_own,).
        replicas: In the format of the wire, float32 or int16, shape (n, row_dim).
    """

    cache: Tensor
    own_slots: Tensor
    replicas: Tensor


class Bags(NamedTuple):
    """The ids of samples, on the device: see PlacedSamples and index_arrays.BagIndex."""

    sample_rows: Tensor
    offsets: Tensor
    weight_shifts: Tensor
    weights: Tensor


class Uses(NamedTuple):
    """index_arrays.RowUses on the device."""

    ends: Tensor
    vectors: Tensor
    divisors: Tensor
    weights: Tensor
    hot_rows: Tensor


class Terms(NamedTuple):
    """The gradients of updated rows, on the device.

    Args:
        ends: GradientTerms.ends, int32, shape (n + 1,). For a sum in the order of a tree: empty.
        terms: GradientTerms.terms, or the leaves of `index_leaves`, int32, shape (n, T), where T is a power of two.
        own_gradients: This trainer's gradients, float32, shape (num_own, row_dim).
        arrived: Gradients of the other trainers, in the format of the wire, float32 or int16, shape (m, row_dim).
    """

    ends: Tensor
    terms: Tensor
    own_gradients: Tensor
    arrived: Tensor


def gather_rows(cache: Tensor, slots: Tensor, out: Tensor, wire: WireDtype = "float32", scale: float = 1.0) -> None:
    """Copy rows out of the cache, and of each row as many columns as `out` has.

    Args:
        cache: float32, shape (num_slots, row_width).
        slots: int32, shape (n,).
        out: Gets the rows in the format of the wire, float32 or int16, shape (n, at most row_width).
        wire: The format. With 16 bits the function does what Wire.pack does.
        scale: As for Wire.pack.
    """
    columns = out.shape[1]
    block_rows, block_columns = _tile(columns, COPY_ELEMENTS)
    _launch(
        gather_rows_kernel, (triton.cdiv(len(slots), block_rows),), COPY_WARPS,
        cache, slots, out, len(slots), float(scale),
        row_width=cache.shape[1], columns=columns, wire=wire, block_rows=block_rows, block_columns=block_columns,
    )  # fmt: skip


def pool_rows(layout: DeviceLayout, rows: Rows, bags: Bags, out: Tensor, wire: WireDtype = "float32") -> None:
    """Pool the rows of samples straight from the cache and the replicas, as trainer/pooling.py does.

    The rows of a bag are added from 0.0 on, in the order of the ids. The vector of a one-hot feature is its row, so
    -0.0 stays -0.0.

    Args:
        layout: The features, F in number.
        rows: The rows of the iteration. With a wire of 16 bits, own rows are rounded as the wire rounds them.
        bags: The ids of the samples.
        out: Gets the vectors, float32, shape (num_samples, F, row_dim).
        wire: The format of the replicas.
    """
    features = layout.layout
    block_rows, block_columns = _tile(features.row_dim, SUM_ELEMENTS if features.has_bags else COPY_ELEMENTS)
    grid = (triton.cdiv(len(out), block_rows), len(features.features))
    _launch(
        pool_rows_kernel, grid, SUM_WARPS if features.has_bags else COPY_WARPS,
        *rows, *bags[:2], bags.weights, bags.weight_shifts, layout.features, layout.kinds, layout.used_columns, out,
        len(out), len(rows.own_slots),
        num_features=len(features.features), row_width=rows.cache.shape[1], row_dim=features.row_dim,
        embedding_dim=features.embedding_dim, has_bags=features.has_bags, has_weights=features.has_weights,
        is_masked=features.is_masked, wire=wire, block_rows=block_rows, block_columns=block_columns,
    )  # fmt: skip


def add_row_gradients(
    layout: DeviceLayout,
    gradients: Tensor,
    uses: Uses,
    own_gradients: Tensor,
    replica_gradients: Tensor,
    wire: WireDtype = "float32",
    scale: float = 1.0,
) -> None:
    """Add up the gradients of each row over its uses: the backward pass of `pool_rows`.

    The gradients of a row are added from 0.0 on, in the order of its uses. There are no atomic operations.

    Args:
        layout: The features, F in number.
        gradients: Gradients of the vectors, float32, shape (num_samples, F, row_dim).
        uses: The uses of each row: own rows, then replicas.
        own_gradients: Gets the gradients of own rows, rounded as the wire rounds them, float32, shape
            (num_own, row_dim).
        replica_gradients: Gets the gradients of replicas in the format of the wire, float32 or int16, shape
            (n, row_dim).
        wire: The format of gradients between trainers.
        scale: The scale of gradients on the wire, a power of two.
    """
    features = layout.layout
    num_rows = len(own_gradients) + len(replica_gradients)
    block_rows, block_columns = _tile(features.row_dim, SUM_ELEMENTS)
    hot_grid = len(uses.hot_rows), triton.cdiv(features.row_dim, HOT_COLUMNS)
    for grid, count, is_hot, unroll, tile in (
        (hot_grid, len(uses.hot_rows), True, HOT_UNROLL, (1, HOT_COLUMNS)),  # they take longest
        ((triton.cdiv(num_rows, block_rows),), num_rows, False, UNROLL, (block_rows, block_columns)),
    ):
        _launch(
            add_row_gradients_kernel, grid, SUM_WARPS,
            gradients, *uses, layout.used_columns, own_gradients, replica_gradients,
            count, len(own_gradients), float(scale), 1.0 / scale,
            num_features=len(features.features), row_dim=features.row_dim, embedding_dim=features.embedding_dim,
            has_divisors=features.has_means, has_weights=features.has_weights, is_masked=features.is_masked, wire=wire,
            is_hot=is_hot, max_uses=HOT_USES, unroll=unroll, block_rows=tile[0], block_columns=tile[1],
        )  # fmt: skip


def update_rows(
    step: RowStep,
    cache: Tensor,
    slots: Tensor,
    terms: Terms,
    parameters: Tensor,
    lanes: Tensor,
    wire: WireDtype = "float32",
    scale: float = 1.0,
) -> None:
    """Add up the gradients of owned rows and make a step of the optimizer, in place in the cache.

    Gradients are added from 0.0 on in the order of the terms, as row_kernels.add_gradients does. If the terms are the
    leaves of a tree, neighbours are added first. Each row has at least one gradient.

    Args:
        step: The optimizer.
        cache: float32, shape (num_slots, row_width).
        slots: The slots of the rows, int32, shape (n,), without repetitions.
        terms: Their gradients.
        parameters: RowStep.parameters of the iteration, on the device.
        lanes: index_arrays.halving_lanes(row_dim) on the device. Only rowwise_adagrad reads them.
        wire: The format of the gradients that arrived.
        scale: Their scale, a power of two.
    """
    num_leaves = terms.terms.shape[1] if terms.terms.dim() == 2 else 0
    block_rows, block_columns = _tile(step.row_dim, max(1, UPDATE_ELEMENTS // max(1, num_leaves)))
    config = step.config
    _launch(
        update_rows_kernel, (triton.cdiv(len(slots), block_rows),), UPDATE_WARPS,
        cache, slots, terms.ends, terms.terms, terms.own_gradients, terms.arrived, parameters, lanes,
        len(slots), 1.0 / scale,
        optimizer=config.name, is_nesterov=config.nesterov, is_clipped=config.clip_value is not None,
        by_table=step.by_table, num_leaves=num_leaves, tree_levels=max(0, num_leaves.bit_length() - 1),
        lane_levels=block_columns.bit_length() - 1, row_width=step.row_width, row_dim=step.row_dim,
        num_parameters=NUM_PARAMETERS, wire=wire, is_emulated=IS_INTERPRETED, block_rows=block_rows,
        block_columns=block_columns,
    )  # fmt: skip


def _tile(columns: int, elements: int) -> tuple[int, int]:
    """Return how many rows and columns a program handles: powers of two, with all columns of a row."""
    block_columns = triton.next_power_of_2(columns)
    return max(1, elements // block_columns), block_columns


def _launch(kernel: Any, grid: tuple[int, ...], num_warps: int, *tensors: Any, **constants: Any) -> None:
    if grid[0]:
        # The compiler must not fuse operations by itself: the kernels say what is fused.
        kernel[grid](*tensors, **constants, num_warps=num_warps, enable_fp_fusion=False)
