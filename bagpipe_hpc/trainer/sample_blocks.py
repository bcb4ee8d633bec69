"""The blocks of a trainer's samples, cut from its plan. Pure.

With `training.blocks` K, a global batch is cut into K blocks of consecutive samples, and trainer t computes the K / T
blocks from t K / T on, one after the other. So every block is computed with the same shapes, whatever T is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.sharding import share_boundaries

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class BlockShare:
    """The blocks that one trainer computes.

    Args:
        first: The number of its first block.
        count: How many it computes.
        total: The number of all blocks, K.
        is_tree: Whether the gradients of blocks are added in the order of a binary tree; if not, each trainer has one
            block, and they are added in ascending order.
    """

    first: int
    count: int
    total: int
    is_tree: bool = True

    def bounds(self, num_global_samples: int) -> list[int]:
        """Return where each block begins in the share of the trainer, and where the last one ends.

        Args:
            num_global_samples: The number of samples of the whole batch.
        """
        all_bounds = share_boundaries(num_global_samples, self.total)
        mine = all_bounds[self.first : self.first + self.count + 1]
        return [bound - mine[0] for bound in mine]


ONE_BLOCK = BlockShare(0, 1, 1, is_tree=False)


@dataclass(frozen=True)
class FeatureKinds:
    """Which features are ragged, and how many values their ids have, in table order.

    Args:
        ragged: Of each feature.
        reals: The number of real values of an id of each feature.
        integers: The number of integer values. Empty: 0 for all.
    """

    ragged: Sequence[bool]
    reals: Sequence[int]
    integers: Sequence[int] = ()


@dataclass(frozen=True)
class BlockSamples:
    """The samples of a block, in host memory.

    Args:
        labels: float32, shape (b,) or (b, num_labels).
        dense: float32, shape (b, num_dense).
        sample_rows: The position of the row of each id among the rows of the trainer, int32, shape (num_ids,), in table
            order.
        bag_lengths: The number of ids of each sample in each ragged feature, int64, shape (num_ragged, b), in table
            order.
        weights: The real values of ids, float32, shape (num_reals,), as in TrainerPlan.
        sample_weights: float32, shape (b,) or (0,), as in TrainerPlan.
        groups: int64, shape (b,) or (0,), as in TrainerPlan.
        loss_divisors: float32, shape (num_labels,) or (0,), as in TrainerPlan.
        integers: The integer values of ids, int64, shape (num_integers,), as in TrainerPlan.
        item_counts: int64, shape (b,) or (0,), as in TrainerPlan.
        positive_weights: float32, shape (num_labels,) or (0,), as in TrainerPlan.
    """

    labels: Float32Array
    dense: Float32Array
    sample_rows: NDArray[np.int32]
    bag_lengths: NDArray[np.int64]
    weights: Float32Array
    sample_weights: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    groups: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    loss_divisors: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    integers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    item_counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    positive_weights: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))


def blocks_of(plan: TrainerPlan, share: BlockShare, kinds: FeatureKinds) -> Iterator[BlockSamples]:
    """Yield the samples of each block.

    Args:
        plan: The plan of the trainer.
        share: The blocks of the trainer.
        kinds: The features of a sample.
    """
    lengths = plan.bag_lengths.reshape(sum(kinds.ragged), plan.num_samples).astype(np.int64)
    if share.count == 1:
        yield BlockSamples(
            plan.labels,
            plan.dense,
            plan.sample_rows,
            lengths,
            plan.weights,
            plan.sample_weights,
            plan.groups,
            plan.loss_divisors.astype(np.float32),
            plan.integers,
            plan.item_counts,
            plan.positive_weights.astype(np.float32),
        )
        return
    for start, stop in pairwise(share.bounds(plan.num_global_samples)):
        yield _samples(plan, lengths, start, stop, kinds)


def _samples(
    plan: TrainerPlan, all_lengths: NDArray[np.int64], start: int, stop: int, kinds: FeatureKinds
) -> BlockSamples:
    lengths = iter(all_lengths)
    ids, reals, integers = [], [plan.weights[:0]], [plan.integers[:0]]
    begin = begin_reals = begin_integers = 0
    for is_ragged, num_reals, num_integers in zip(
        kinds.ragged, kinds.reals, kinds.integers or [0] * len(kinds.ragged), strict=True
    ):
        if is_ragged:
            of_feature = next(lengths)
            before, inside, in_all = (int(of_feature[part].sum()) for part in (slice(start), slice(start, stop), ...))
        else:
            before, inside, in_all = start, stop - start, plan.num_samples
        ids.append(plan.sample_rows[begin + before : begin + before + inside])
        begin += in_all
        for _ in range(num_reals):
            reals.append(plan.weights[begin_reals + before : begin_reals + before + inside])
            begin_reals += in_all
        for _ in range(num_integers):
            integers.append(plan.integers[begin_integers + before : begin_integers + before + inside])
            begin_integers += in_all
    return BlockSamples(
        plan.labels[start:stop],
        plan.dense[start:stop],
        np.concatenate(ids),
        np.ascontiguousarray(all_lengths[:, start:stop]),
        np.concatenate(reals),
        plan.sample_weights[start:stop],
        plan.groups[start:stop],
        plan.loss_divisors.astype(np.float32),
        np.concatenate(integers),
        plan.item_counts[start:stop],
        plan.positive_weights.astype(np.float32),
    )
