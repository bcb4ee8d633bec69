"""Triton kernels that move rows: from the cache, into the vectors of samples, and gradients the way back.

A program handles `block_rows` rows or bags, each with all its columns, padded to the power of two `block_columns`. Sums
have one order: that of the ids of a bag, and that of the uses of a row. There are no atomic operations. A masked
element adds 0.0 to a sum that begins with 0.0. Such a sum is never -0.0, so this changes no bit.

kernels.py launches these functions, and its docstrings say what the arrays are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bagpipe_hpc.trainer.device import feature_layout
from bagpipe_hpc.trainer.device.kernel_arithmetic import from_wire, larger, to_wire

# FeatureLayout.kinds
ONE_HOT, MEAN, WEIGHTED = (
    tl.constexpr(kind) for kind in (feature_layout.ONE_HOT, feature_layout.MEAN, feature_layout.WEIGHTED)
)


@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=["slots"])
def gather_rows_kernel(
    cache: tl.tensor,
    slots: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    scale: tl.tensor,
    row_width: tl.constexpr,
    columns: tl.constexpr,
    wire: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    column = tl.arange(0, block_columns)
    mask = (row < num_rows)[:, None] & (column < columns)[None, :]
    slot = tl.load(slots + row, mask=row < num_rows, other=0).to(tl.int64)
    values = tl.load(cache + slot[:, None] * row_width + column[None, :], mask=mask, other=0.0)
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + place, to_wire(values, scale, wire), mask=mask)


@triton.jit
def _rows_at(
    cache: tl.tensor,
    own_slots: tl.tensor,
    replicas: tl.tensor,
    num_own: tl.tensor,
    row: tl.tensor,
    is_row: tl.tensor,
    column: tl.tensor,
    row_width: tl.constexpr,
    row_dim: tl.constexpr,
    wire: tl.constexpr,
) -> tl.tensor:
    """Return rows of an iteration, float32, shape (block_rows, block_columns): own rows, then replicas.

    Own rows are rounded as the wire rounds them. Where is_row is false, and in padding columns, the result is 0.0.
    """
    is_own = is_row & (row < num_own)
    is_column = (column < row_dim)[None, :]
    slot = tl.load(own_slots + row, mask=is_own, other=0).to(tl.int64)
    own = tl.load(
        cache + slot[:, None] * row_width + column[None, :], mask=is_own[:, None] & is_column, other=0.0
    )  # fmt: skip
    own = from_wire(to_wire(own, 1.0, wire), 1.0, wire)
    replica = (row - num_own).to(tl.int64)
    replicated = tl.load(
        replicas + replica[:, None] * row_dim + column[None, :],
        mask=(is_row & (row >= num_own))[:, None] & is_column,
        other=0,
    )
    return tl.where(is_own[:, None], own, from_wire(replicated, 1.0, wire))


@triton.jit(
    do_not_specialize=["num_samples", "num_own"],
    do_not_specialize_on_alignment=["own_slots", "sample_rows", "offsets", "weights", "weight_shifts"],
)
def pool_rows_kernel(
    cache: tl.tensor,
    own_slots: tl.tensor,
    replicas: tl.tensor,
    sample_rows: tl.tensor,
    offsets: tl.tensor,
    weights: tl.tensor,
    weight_shifts: tl.tensor,
    features: tl.tensor,
    kinds: tl.tensor,
    used_columns: tl.tensor,
    out: tl.tensor,
    num_samples: tl.tensor,
    num_own: tl.tensor,
    num_features: tl.constexpr,
    row_width: tl.constexpr,
    row_dim: tl.constexpr,
    embedding_dim: tl.constexpr,
    has_bags: tl.constexpr,
    has_weights: tl.constexpr,
    is_masked: tl.constexpr,
    wire: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    place = tl.program_id(1)  # of the feature, in table order
    sample = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_sample = sample < num_samples
    column = tl.arange(0, block_columns)
    feature = tl.load(features + place)
    bag = place * num_samples + sample
    if has_bags:
        kind = tl.load(kinds + place)
        start = tl.load(offsets + bag, mask=is_sample, other=0)
        length = tl.load(offsets + bag + 1, mask=is_sample, other=0) - start
        if kind == ONE_HOT:
            row = tl.load(sample_rows + start, mask=is_sample, other=0)
            vectors = _rows_at(
                cache, own_slots, replicas, num_own, row, is_sample, column, row_width, row_dim, wire
            )  # fmt: skip
        else:
            is_weighted = ((tl.full((block_rows,), 0, tl.int32) + kind) & WEIGHTED) != 0
            vectors = tl.full((block_rows, block_columns), 0.0, tl.float32)
            weight_sum = tl.full((block_rows,), 0.0, tl.float32)
            longest = tl.reduce(length, 0, larger)
            for step in range(0, longest):
                is_id = step < length
                row = tl.load(sample_rows + start + step, mask=is_id, other=0)
                values = _rows_at(
                    cache, own_slots, replicas, num_own, row, is_id, column, row_width, row_dim, wire
                )  # fmt: skip
                weight = is_id.to(tl.float32)
                if has_weights:
                    # In a feature without weights, each id has the weight 1.0, which changes no bit.
                    position = tl.load(weight_shifts + place) + start + step
                    factor = tl.load(weights + position, mask=is_id & is_weighted, other=1.0)
                    values = values * factor[:, None]
                    weight = tl.where(is_id, factor, 0.0)
                vectors += values
                weight_sum += weight
            if (kind & MEAN) != 0:
                divisor = tl.where(weight_sum == 0.0, 1.0, weight_sum)
                vectors = tl.div_rn(vectors, tl.broadcast_to(divisor[:, None], (block_rows, block_columns)))
    else:
        row = tl.load(sample_rows + bag, mask=is_sample, other=0)
        vectors = _rows_at(cache, own_slots, replicas, num_own, row, is_sample, column, row_width, row_dim, wire)
    if is_masked:
        used = tl.load(used_columns + feature)
        vectors = vectors * tl.where((column >= used) & (column < embedding_dim), 0.0, 1.0)[None, :]
    vector = sample.to(tl.int64) * num_features + feature
    mask = is_sample[:, None] & (column < row_dim)[None, :]
    tl.store(out + vector[:, None] * row_dim + column[None, :], vectors, mask=mask)


@triton.jit(
    do_not_specialize=["num_rows", "num_own"],
    do_not_specialize_on_alignment=["ends", "vectors", "divisors", "weights", "hot_rows"],
)
def add_row_gradients_kernel(
    gradients: tl.tensor,
    ends: tl.tensor,
    vectors: tl.tensor,
    divisors: tl.tensor,
    weights: tl.tensor,
    hot_rows: tl.tensor,
    used_columns: tl.tensor,
    own_gradients: tl.tensor,
    replica_gradients: tl.tensor,
    num_rows: tl.tensor,
    num_own: tl.tensor,
    scale: tl.tensor,
    inverse_scale: tl.tensor,
    num_features: tl.constexpr,
    row_dim: tl.constexpr,
    embedding_dim: tl.constexpr,
    has_divisors: tl.constexpr,
    has_weights: tl.constexpr,
    is_masked: tl.constexpr,
    wire: tl.constexpr,
    is_hot: tl.constexpr,
    max_uses: tl.constexpr,
    unroll: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = row < num_rows
    if is_hot:
        row = tl.load(hot_rows + row, mask=is_row, other=0)
    column = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    is_column = (column < row_dim)[None, :]
    start = tl.load(ends + row, mask=is_row, other=0)
    stop = tl.load(ends + row + 1, mask=is_row, other=0)
    if not is_hot:  # the other launch has the rows with more uses
        is_row = is_row & (stop - start <= max_uses)
        stop = tl.where(is_row, stop, start)
    total = tl.full((block_rows, block_columns), 0.0, tl.float32)
    longest = tl.reduce(stop - start, 0, larger)
    for step in range(0, longest, unroll):
        # Unrolled, so that the loads of several uses are under way at the same time. The additions stay in their order.
        for further in tl.static_range(unroll):
            use = start + step + further
            is_use = use < stop
            vector = tl.load(vectors + use, mask=is_use, other=0)
            gradient = tl.load(
                gradients + vector.to(tl.int64)[:, None] * row_dim + column[None, :],
                mask=is_use[:, None] & is_column,
                other=0.0,
            )
            if is_masked:
                used = tl.load(used_columns + vector % num_features)
                is_unused = (column[None, :] >= used[:, None]) & (column < embedding_dim)[None, :]
                gradient = gradient * tl.where(is_unused, 0.0, 1.0)
            if has_divisors:
                divisor = tl.load(divisors + use, mask=is_use, other=1.0)
                gradient = tl.div_rn(gradient, tl.broadcast_to(divisor[:, None], (block_rows, block_columns)))
            if has_weights:
                gradient = gradient * tl.load(weights + use, mask=is_use, other=1.0)[:, None]
            total += gradient
    packed = to_wire(total, scale, wire)
    own = row.to(tl.int64)[:, None] * row_dim + column[None, :]
    is_own = (is_row & (row < num_own))[:, None] & is_column
    tl.store(own_gradients + own, from_wire(packed, inverse_scale, wire), mask=is_own)
    replica = (row - num_own).to(tl.int64)[:, None] * row_dim + column[None, :]
    tl.store(replica_gradients + replica, packed, mask=(is_row & (row >= num_own))[:, None] & is_column)
