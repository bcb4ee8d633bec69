"""The blocks of a trainer's samples, cut from its plan. Pure.

With `training.blocks` K, a global batch is cut into K blocks of consecutive samples, and trainer t computes the K / T
blocks from t K / T on, one after the other. So every block is computed with the same shapes, whatever T is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.sharding import share_boundaries


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
    """Which features are ragged, and which of these have weights, in table order.

    Args:
        ragged: Of each feature.
        weighted: Of each feature.
    """

    ragged: Sequence[bool]
    weighted: Sequence[bool]


NO_FEATURES = FeatureKinds((), ())  # enough for one block, which is not cut


def blocks_of(plan: TrainerPlan, share: BlockShare, kinds: FeatureKinds) -> Iterator[TrainerPlan]:
    """Yield the plan of each block: that of the trainer with the samples of this block only.

    Args:
        plan: The plan of the trainer.
        share: The blocks of the trainer.
        kinds: The features of a sample.
    """
    if share.count == 1:
        yield plan
        return
    for start, stop in pairwise(share.bounds(plan.num_global_samples)):
        yield _samples(plan, start, stop, kinds)


def _samples(plan: TrainerPlan, start: int, stop: int, kinds: FeatureKinds) -> TrainerPlan:
    all_lengths = iter(plan.bag_lengths.reshape(-1, plan.num_samples) if plan.num_samples else ())
    ids, lengths, weights = [], [], []
    begin = begin_weights = 0
    for is_ragged, is_weighted in zip(kinds.ragged, kinds.weighted, strict=True):
        if is_ragged and plan.num_samples:
            of_feature = next(all_lengths)
            lengths.append(of_feature[start:stop])
            before, inside, in_all = (int(of_feature[part].sum()) for part in (slice(start), slice(start, stop), ...))
        else:
            before, inside, in_all = start, stop - start, plan.num_samples
        ids.append(plan.sample_rows[begin + before : begin + before + inside])
        begin += in_all
        if is_weighted:
            weights.append(plan.weights[begin_weights + before : begin_weights + before + inside])
            begin_weights += in_all
    return replace(
        plan,
        num_samples=stop - start,
        labels=plan.labels[start:stop],
        dense=plan.dense[start:stop],
        sample_rows=np.concatenate(ids),
        bag_lengths=np.concatenate(lengths) if lengths else plan.bag_lengths[:0],
        weights=np.concatenate(weights) if weights else plan.weights[:0],
    )
