"""The Triton kernel that updates rows: it adds up their gradients, makes a step of the optimizer and stores the rows.

It reads each row once and writes it once. Each formula is that of trainer/row_optimizer.py, operation by operation.
kernels.py launches it, and its docstrings say what the arrays are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bagpipe_hpc.trainer.device import index_arrays
from bagpipe_hpc.trainer.device.kernel_arithmetic import add_halves, clamp, from_wire, fused_multiply_add, larger

NO_GRADIENT = tl.constexpr(index_arrays.NO_GRADIENT)
BITS_OF_NEGATIVE_ZERO = tl.constexpr(-(2**31))  # Triton turns a constant -0.0 into 0.0


@triton.jit
def _gradients_of(
    term: tl.tensor,
    own_gradients: tl.tensor,
    arrived: tl.tensor,
    is_term: tl.tensor,
    lane: tl.tensor,
    is_lane: tl.tensor,
    inverse_scale: tl.tensor,
    row_dim: tl.constexpr,
    wire: tl.constexpr,
) -> tl.tensor:
    """Return gradients, float32, shape (*term.shape, block_columns): 0.0 where is_term is false.

    A term n >= 0 is row n of arrived; a term n < 0 is row -1 - n of own_gradients.
    """
    is_own = is_term & (term < 0)
    mask = tl.expand_dims(is_own, -1) & is_lane
    row = tl.expand_dims(tl.where(is_own, -1 - term, term).to(tl.int64), -1)
    own = tl.load(own_gradients + row * row_dim + lane, mask=mask, other=0.0)
    mask = tl.expand_dims(is_term & (term >= 0), -1) & is_lane
    other = from_wire(tl.load(arrived + row * row_dim + lane, mask=mask, other=0), inverse_scale, wire)
    return tl.where(mask, other, own)


@triton.jit(
    do_not_specialize=["num_rows"], do_not_specialize_on_alignment=["slots", "ends", "terms", "parameters", "lanes"]
)
def update_rows_kernel(
    cache: tl.tensor,
    slots: tl.tensor,
    ends: tl.tensor,
    terms: tl.tensor,
    own_gradients: tl.tensor,
    arrived: tl.tensor,
    parameters: tl.tensor,
    lanes: tl.tensor,
    num_rows: tl.tensor,
    inverse_scale: tl.tensor,
    optimizer: tl.constexpr,
    is_nesterov: tl.constexpr,
    is_clipped: tl.constexpr,
    by_table: tl.constexpr,
    num_leaves: tl.constexpr,
    tree_levels: tl.constexpr,
    lane_levels: tl.constexpr,
    row_width: tl.constexpr,
    row_dim: tl.constexpr,
    num_parameters: tl.constexpr,
    wire: tl.constexpr,
    is_emulated: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    place = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    is_row = place < num_rows
    if optimizer == "rowwise_adagrad":
        lane = tl.load(lanes + tl.arange(0, block_columns))[None, :]  # -1: padding
    else:
        lane = tl.arange(0, block_columns)[None, :]
    is_lane = (lane >= 0) & (lane < row_dim)
    mask = is_row[:, None] & is_lane

    # The sum of the gradients.
    if num_leaves == 0:  # in the order of terms, from 0.0
        start = tl.load(ends + place, mask=is_row, other=0)
        length = tl.load(ends + place + 1, mask=is_row, other=0) - start
        gradient = tl.full((block_rows, block_columns), 0.0, tl.float32)
        for step in range(0, tl.reduce(length, 0, larger)):
            is_term = step < length
            term = tl.load(terms + start + step, mask=is_term, other=0)
            gradient += _gradients_of(
                term, own_gradients, arrived, is_term, lane, is_lane, inverse_scale, row_dim, wire
            )  # fmt: skip
    else:  # a binary tree over the trainers, neighbours first; -0.0 is the neutral element of an addition
        leaf = place[:, None] * num_leaves + tl.arange(0, num_leaves)[None, :]
        term = tl.load(terms + leaf, mask=is_row[:, None], other=NO_GRADIENT)
        gradients = _gradients_of(
            term, own_gradients, arrived, term != NO_GRADIENT, lane[None, :, :], is_lane[None, :, :], inverse_scale,
            row_dim, wire,
        )  # fmt: skip
        negative_zeros = tl.full((block_rows, num_leaves, block_columns), BITS_OF_NEGATIVE_ZERO, tl.int32)
        negative_zeros = negative_zeros.to(tl.float32, bitcast=True)
        gradients = tl.where(tl.expand_dims(term != NO_GRADIENT, -1), gradients, negative_zeros)
        gradients = tl.permute(gradients, (0, 2, 1))  # (block_rows, block_columns, num_leaves)
        for level in tl.static_range(tree_levels):
            pairs = tl.reshape(gradients, (block_rows, block_columns, num_leaves >> (level + 1), 2))
            left, right = tl.split(pairs)
            gradients = left + right
        gradient = tl.reshape(gradients, (block_rows, block_columns))

    # The parameters of the optimizer, in the order of RowStep.parameters.
    first = cache + tl.load(slots + place, mask=is_row, other=0).to(tl.int64) * row_width
    own_parameters = parameters + tl.full((block_rows,), 0, tl.int32)
    if by_table:
        table = tl.load(first + row_width - 1, mask=is_row, other=0.0).to(tl.int32)
        own_parameters = parameters + table * num_parameters
    rate = tl.load(own_parameters)[:, None]
    if is_clipped:
        limit = tl.load(own_parameters + 1)[:, None]
        gradient = clamp(gradient, -limit, limit)

    weight_place = first[:, None] + lane
    weight = tl.load(weight_place, mask=mask, other=0.0)
    state_place = weight_place + row_dim
    if optimizer == "sgd":
        weight = fused_multiply_add(gradient, rate, weight, is_emulated)
    elif optimizer == "momentum":
        momentum = tl.load(own_parameters + 2)[:, None]
        buffer = tl.load(state_place, mask=mask, other=0.0) * momentum + gradient
        tl.store(state_place, buffer, mask=mask)
        if is_nesterov:
            buffer = fused_multiply_add(buffer, momentum, gradient, is_emulated)
        weight = fused_multiply_add(buffer, rate, weight, is_emulated)
    elif optimizer == "adagrad":
        eps = tl.load(own_parameters + 2)[:, None]
        squares = tl.load(state_place, mask=mask, other=0.0)
        squares = fused_multiply_add(gradient, gradient, squares, is_emulated)
        tl.store(state_place, squares, mask=mask)
        weight = weight + tl.div_rn(rate * gradient, tl.sqrt_rn(squares) + eps)
    elif optimizer == "rowwise_adagrad":
        eps = tl.load(own_parameters + 2)
        num_used = tl.load(own_parameters + 3)
        # The padding columns add 0.0 to sums of squares, which are never -0.0.
        sums = gradient * gradient
        for level in tl.static_range(lane_levels):
            sums = add_halves(sums, block_rows, block_columns >> level)
        sum_place = first + row_dim
        total = tl.load(sum_place, mask=is_row, other=0.0)
        total = total + tl.div_rn(tl.reshape(sums, (block_rows,)), num_used)
        tl.store(sum_place, total, mask=is_row)
        one = tl.full((block_rows,), 1.0, tl.float32)
        step_size = tl.div_rn(one, tl.sqrt_rn(total) + eps)[:, None] * rate
        weight = weight - gradient * step_size
    else:
        eps = tl.load(own_parameters + 2)[:, None]
        means = tl.load(state_place, mask=mask, other=0.0)
        squares = tl.load(state_place + row_dim, mask=mask, other=0.0)
        means = means + (gradient - means) * tl.load(own_parameters + 3)[:, None]
        squares = squares + (gradient * gradient - squares) * tl.load(own_parameters + 4)[:, None]
        tl.store(state_place, means, mask=mask)
        tl.store(state_place + row_dim, squares, mask=mask)
        weight = weight + tl.div_rn(means, tl.sqrt_rn(squares) + eps) * rate
    tl.store(weight_place, weight, mask=mask)
