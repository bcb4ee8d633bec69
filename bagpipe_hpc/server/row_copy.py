"""Copies between random rows of a shard and a contiguous stage.

One pass each, with rows asked for ahead of their turn: up to twice as fast as numpy's take, three times as its put.
Indices are not checked here. Python's lock is released.
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
    """out[j] = rows[indices[j]]; float32 (num_rows, w), int64 (n,), float32 (n, w)."""
    for j in range(len(indices)):
        if j + DISTANCE < len(indices):
            hint(rows, indices[j + DISTANCE])
        row = indices[j]
        for column in range(rows.shape[1]):
            out[j, column] = rows[row, column]


@compiled
def scatter_rows(rows: Float32Array, indices: Int64Array, values: Float32Array) -> None:
    """rows[indices[j]] = values[j]; shapes as above."""
    for j in range(len(indices)):
        if j + DISTANCE < len(indices):
            hint(rows, indices[j + DISTANCE])
        row = indices[j]
        for column in range(rows.shape[1]):
            rows[row, column] = values[j, column]


@compiled
def set_rows_aside(
    rows: Float32Array,
    indices: Int64Array,
    is_needed: BoolArray,
    aside: Float32Array,
    numbers: Int64Array,
    num_aside: int,
) -> int:
    """Append the rows that are needed to aside, their indices to numbers, and need them no more; returns how many."""
    for j in range(len(indices)):
        row = indices[j]
        if is_needed[row]:
            is_needed[row] = False
            for column in range(rows.shape[1]):
                aside[num_aside, column] = rows[row, column]
            numbers[num_aside] = row
            num_aside += 1
    return num_aside


@compiled
def mark_rows(
    words: NDArray[np.uint64],
    state: NDArray[np.uint8],
    lowest: int,
    new_state: int,
    is_needed: BoolArray,
    indices: Int64Array,
) -> int:
    """Rows of at least the lowest state, ascending, go to indices, are needed, and get a new state; returns how many.

    words is the memory of state, 8 rows each: most of a shard may never have been used.
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
