"""Loops over rows on the CPU, each in one call. numpy and torch would need a chain of calls, each with its overhead.

Positions and slots are not checked: the plan has them right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Positions = NDArray[np.int32 | np.int64]
Float32Array = NDArray[np.float32]
Rows = NDArray[np.float32 | np.int16]


@compiled
def positions_of(edges: Int64Array, part: Int64Array) -> Int64Array:
    """Return the positions of the rows of a part among the rows of all blocks, int64, shape (n,), ascending.

    Args:
        edges: int64, shape (T, 5), see GrayBlocks.
        part: int64, shape (number of runs, 2), see GrayBlocks.
    """
    total = 0
    for trainer in range(len(edges)):
        for run in range(len(part)):
            total += edges[trainer, part[run, 1]] - edges[trainer, part[run, 0]]
    positions = np.empty(total, dtype=np.int64)
    place = 0
    for trainer in range(len(edges)):
        for run in range(len(part)):
            for position in range(edges[trainer, part[run, 0]], edges[trainer, part[run, 1]]):
                positions[place] = position
                place += 1
    return positions


@compiled
def copy_rows(rows: Rows, positions: Positions, out: Rows) -> None:
    """Copy rows, and of each row as many columns as there is room for.

    Args:
        rows: float32 or int16, shape (m, columns).
        positions: Positions of the rows to copy, int32 or int64, shape (n,).
        out: Gets the copies, of the same dtype, shape (n, at most columns).
    """
    for place in range(len(positions)):
        position = positions[place]
        for column in range(out.shape[1]):
            out[place, column] = rows[position, column]


@compiled
def copy_rows_to(rows: Rows, positions: Positions, out: Rows, places: Int64Array) -> None:
    """Copy rows to places: out[places[k]] = rows[positions[k]].

    Args:
        rows: float32 or int16, shape (m, columns).
        positions: Positions of the rows to copy, int32 or int64, shape (n,).
        out: Gets the copies, of the same dtype, shape (at least n, columns).
        places: int64, shape (n,), without repetitions.
    """
    for number in range(len(positions)):
        position, place = positions[number], places[number]
        for column in range(out.shape[1]):
            out[place, column] = rows[position, column]


@compiled
def add_gradients(
    sums: Float32Array,
    positions: Int64Array,
    own_gradients: Float32Array,
    num_own: int,
    rank: int,
    index: Int64Array,
    starts: Int64Array,
    arrived: Float32Array,
) -> None:
    """Add up the gradients of owned rows in ascending order of the trainers that they come from.

    Args:
        sums: The sums, which begin with zeros, float32, shape (n, row_dim).
        positions: Positions of the rows of `sums` in TrainerPlan.update_slots, int64, shape (n,), ascending.
        own_gradients: Gradients of this trainer's samples, float32, shape (at least num_own, row_dim). They are those
            of the first rows of update_slots.
        num_own: The number of positions of rows that have an own gradient. These positions come first.
        rank: The rank of this trainer among the trainers.
        index: The row of `sums` that each gradient from another trainer belongs to, int64, shape (m,), trainer by
            trainer.
        starts: Where the gradients of each trainer begin in `index`, int64, shape (T + 1,).
        arrived: Gradients from the other trainers, float32, shape (m, row_dim).
    """
    for trainer in range(len(starts) - 1):
        if trainer == rank:
            for place in range(num_own):
                for column in range(sums.shape[1]):
                    sums[place, column] += own_gradients[positions[place], column]
        for taken in range(starts[trainer], starts[trainer + 1]):
            place = index[taken]
            for column in range(sums.shape[1]):
                sums[place, column] += arrived[taken, column]


@compiled
def add_gradients_in_tree(
    sums: Float32Array,
    positions: Int64Array,
    own_gradients: Float32Array,
    num_own: int,
    rank: int,
    index: Int64Array,
    starts: Int64Array,
    arrived: Float32Array,
) -> None:
    """Add up the gradients of owned rows in the order of a binary tree over the trainers: neighbours first.

    A trainer that does not use a row is a leaf of zeros, which changes no bit: gradients of rows are sums that begin
    with 0.0, and so never -0.0.

    Args: as in `add_gradients`; the number of trainers is a power of two.
    """
    num_rows, columns = len(positions), sums.shape[1]
    # The gradients of each row as a list in ascending order of trainers. OWN stands for the own gradient.
    own = len(arrived)
    first = np.full(num_rows, -1, dtype=np.int64)
    last = np.full(num_rows, -1, dtype=np.int64)
    following = np.full(own + num_rows, -1, dtype=np.int64)  # those of own gradients lie behind the others
    trainer_of = np.empty(own, dtype=np.int64)
    for trainer in range(len(starts) - 1):
        if trainer == rank:
            for place in range(num_own):
                if last[place] < 0:
                    first[place] = own + place
                else:
                    following[last[place]] = own + place
                last[place] = own + place
        for taken in range(starts[trainer], starts[trainer + 1]):
            place = index[taken]
            if last[place] < 0:
                first[place] = taken
            else:
                following[last[place]] = taken
            last[place] = taken
            trainer_of[taken] = trainer
    # Sums of subtrees that wait for their right neighbour, the leftmost at the bottom.
    stack = np.empty((66, columns), dtype=np.float32)
    leaf = np.empty(66, dtype=np.int64)  # a trainer of the subtree
    for place in range(num_rows):
        size = 0
        item = first[place]
        while item >= 0:
            trainer = rank if item >= own else trainer_of[item]
            # The two on top meet in the tree before either meets the new one.
            while size >= 2 and leaf[size - 2] ^ leaf[size - 1] < leaf[size - 1] ^ trainer:
                size -= 1
                for column in range(columns):
                    stack[size - 1, column] += stack[size, column]
            for column in range(columns):
                if item >= own:
                    stack[size, column] = own_gradients[positions[place], column]
                else:
                    stack[size, column] = arrived[item, column]
            leaf[size] = trainer
            size += 1
            item = following[item]
        while size >= 2:
            size -= 1
            for column in range(columns):
                stack[size - 1, column] += stack[size, column]
        for column in range(columns):
            sums[place, column] = stack[0, column] if size else np.float32(0.0)
