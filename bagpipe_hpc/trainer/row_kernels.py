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
def add_gradients(
    sums: Float32Array,
    positions: Int64Array,
    own_gradients: Float32Array,
    rank: int,
    push_index: Int32Array,
    edges: Int64Array,
    part: Int64Array,
    arrived: Float32Array,
    num_updates: int,
) -> None:
    """Add up the gradients of owned rows in ascending order of the trainers that they come from.

    Args:
        sums: The sums, float32, shape (n, row_dim).
        positions: Positions of the rows of `sums` in TrainerPlan.update_slots, int64, shape (n,), ascending.
        own_gradients: Gradients of this trainer's samples, float32, shape (num_own, row_dim). They are those of the
            first rows of update_slots.
        rank: The rank of this trainer among the trainers.
        push_index: TrainerPlan.push_index, int32.
        edges: int64, shape (T, 5), see GrayBlocks, of the pushed rows.
        part: int64, shape (number of runs, 2), see GrayBlocks. All rows of the part are in `positions`.
        arrived: Gradients of the rows of the part, by trainer, float32, shape (m, row_dim).
        num_updates: The number of rows in update_slots.
    """
    places = np.empty(num_updates, dtype=np.int64)  # index into `sums` of each row that is in it
    for place in range(len(positions)):
        places[positions[place]] = place
    taken = 0
    for trainer in range(len(edges)):
        if trainer == rank:
            for place in range(len(positions)):
                if positions[place] >= len(own_gradients):
                    break
                for column in range(sums.shape[1]):
                    sums[place, column] += own_gradients[positions[place], column]
        for run in range(len(part)):
            for pushed in range(edges[trainer, part[run, 0]], edges[trainer, part[run, 1]]):
                place = places[push_index[pushed]]
                for column in range(sums.shape[1]):
                    sums[place, column] += arrived[taken, column]
                taken += 1


@compiled
def add_gradients_in_tree(
    sums: Float32Array,
    positions: Int64Array,
    own_gradients: Float32Array,
    rank: int,
    push_index: Int32Array,
    edges: Int64Array,
    part: Int64Array,
    arrived: Float32Array,
    num_updates: int,
) -> None:
    """Add up the gradients of owned rows in the order of a binary tree over the trainers: neighbours first.

    A trainer that does not use a row is a leaf of zeros, which changes no bit: gradients of rows are sums that begin
    with 0.0, and so never -0.0.

    Args: as in `add_gradients`; the number of trainers is a power of two.
    """
    num_rows, num_trainers, columns = len(positions), len(edges), sums.shape[1]
    places = np.empty(num_updates, dtype=np.int64)
    for place in range(num_rows):
        places[positions[place]] = place
    # The gradients of each row as a list in ascending order of trainers. OWN stands for the own gradient.
    own = len(arrived)
    first = np.full(num_rows, -1, dtype=np.int64)
    last = np.full(num_rows, -1, dtype=np.int64)
    following = np.full(own + num_rows, -1, dtype=np.int64)  # those of own gradients lie behind the others
    trainer_of = np.empty(own, dtype=np.int64)
    taken = 0
    for trainer in range(num_trainers):
        if trainer == rank:
            for place in range(num_rows):
                if positions[place] >= len(own_gradients):
                    break
                if last[place] < 0:
                    first[place] = own + place
                else:
                    following[last[place]] = own + place
                last[place] = own + place
        for run in range(len(part)):
            for pushed in range(edges[trainer, part[run, 0]], edges[trainer, part[run, 1]]):
                place = places[push_index[pushed]]
                if last[place] < 0:
                    first[place] = taken
                else:
                    following[last[place]] = taken
                last[place] = taken
                trainer_of[taken] = trainer
                taken += 1
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
