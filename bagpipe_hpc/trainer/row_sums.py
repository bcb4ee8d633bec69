"""The sums of row_kernels.py in torch operations, for devices that numba does not reach."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.cache import to_device
from bagpipe_hpc.trainer.gray_blocks import GrayBlocks, Part
from bagpipe_hpc.trainer.row_kernels import positions_of
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]


def summed_gradients(
    positions: Int64Array,
    own_gradients: torch.Tensor,
    rank: int,
    push_index: Int32Array,
    pushed: GrayBlocks,
    part: Part,
    arrived: torch.Tensor,
    num_updates: int,
    *,
    in_tree: bool,
) -> torch.Tensor:
    """Return the sums of the gradients of owned rows, to the bit as row_kernels.py has them.

    Args:
        positions: Positions of the rows in TrainerPlan.update_slots, int64, shape (n,), ascending.
        own_gradients: Gradients of this trainer's samples, float32, shape (num_own, row_dim).
        rank: The rank of this trainer among the trainers.
        push_index: TrainerPlan.push_index, int32.
        pushed: The pushed rows.
        part: Which of these `arrived` has gradients of. All are in `positions`.
        arrived: By trainer, float32, shape (m, row_dim).
        num_updates: The number of rows in update_slots.
        in_tree: Whether the trainers, a power of two, are added in the order of a binary tree; if not, in ascending
            order.
    Returns:
        float32, shape (n, row_dim), on the device of the gradients.
    """
    device = own_gradients.device
    places = np.empty(num_updates, dtype=np.int64)  # index into the sums of each row that is in them
    places[positions] = np.arange(len(positions))
    index = to_device(places[push_index[positions_of(pushed.edges, part)]], device)
    num_own = int(np.searchsorted(positions, len(own_gradients)))  # rows of own samples come first in update_slots
    own = own_gradients[to_device(positions[:num_own], device)]
    sums = torch.zeros((len(positions), arrived.shape[1]), device=device)
    tree = TreeAccumulator()
    start = 0
    for trainer, count in enumerate(pushed.counts(part).tolist()):
        into = torch.zeros_like(sums) if in_tree else sums
        if trainer == rank:
            into[:num_own] += own
        elif count:
            # The positions in one trainer's block are unique, so each row gets its gradients in trainer order.
            into.index_add_(0, index[start : start + count], arrived[start : start + count])
            start += count
        if in_tree:
            tree.add(into)
    return tree.total() if in_tree else sums
