"""Copies between rows anywhere in a shard and a contiguous stage.

Each copy is one pass with hints to the memory system about rows to come. It is up to twice as fast as numpy's take and
three times as fast as its put. The indices are not checked here. The functions release Python's lock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.cache_hint import DISTANCE, hint
from bagpipe_hpc.compiled import compiled

BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


@compiled
def gather_rows(rows: Float32Array, indices: Int64Array, out: Float32Array) -> None:
    """Copy rows[indices[j]] to out[j]; rows is float32 (num_rows, w), indices int64 (n,), out float32 (n, w)."""
    for j in range(len(indices)):
        if j + DISTANCE < len(indices):
            hint(rows, indices[j + DISTANCE])
        row = indices[j]
        for column in range(rows.shape[1]):
            out[j, column] = rows[row, column]


@compiled
def scatter_rows(rows: Float32Array, indices: Int64Array, values: Float32Array) -> None:
    """Copy values[j] to rows[indices[j]]; rows is float32 (num_rows, w), indices int64 (n,), values float32 (n, w)."""
    for j in range(len(indices)):
        if j + DISTANCE < len(indices):
            hint(rows, indices[j + DISTANCE])
        row = indices[j]
        for column in range(rows.shape[1]):
            rows[row, column] = values[j, column]


@compiled
def keep_rows(
    rows: Float32Array,
    indices: Int64Array,
    is_needed: BoolArray,
    kept: Float32Array,
    numbers: Int64Array,
    num_kept: int,
) -> int:
    """Append those rows that are needed to kept, and their indices to numbers; then they are needed no more.

    Args:
        rows: float32, shape (num_rows, w).
        indices: int64, shape (n,).
        is_needed: bool, shape (num_rows,).
        kept: float32, shape (any, w).
        numbers: int64, shape (any,).
        num_kept: Rows that stand in kept before.
    Returns:
        The number of rows in kept afterwards.
    """
    for j in range(len(indices)):
        row = indices[j]
        if is_needed[row]:
            is_needed[row] = False
            for column in range(rows.shape[1]):
                kept[num_kept, column] = rows[row, column]
            numbers[num_kept] = row
            num_kept += 1
    return num_kept


@compiled
def mark_rows(
    words: NDArray[np.uint64],
    state: NDArray[np.uint8],
    lowest: int,
    new_state: int,
    is_needed: BoolArray,
    indices: Int64Array,
) -> int:
    """Write the rows of at least the lowest state to indices, ascending. They become needed and get a new state.

    Args:
        words: The memory of state as uint64, 8 rows each. The loop skips words of 0, because most of a shard may never
            have been used.
        state: uint8, shape (num_rows,).
        lowest: The lowest state that counts.
        new_state: The state of these rows afterwards.
        is_needed: bool, shape (num_rows,).
        indices: int64, shape (num_rows,).
    Returns:
        The number of rows found.
    """
    num_rows = 0
    for word in range(len(words)):
        if words[word] == 0:
            continue
        for row in range(8 * word, min(8 * word + 8, len(state))):
            if state[row] >= lowest:
                indices[num_rows] = row
                num_rows += 1
                is_needed[row] = True
                state[row] = new_state
    return num_rows
