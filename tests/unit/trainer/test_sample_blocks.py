"""Blocks of samples, cut from the plan of a trainer, against cutting each feature by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.sharding import share_boundaries
from bagpipe_hpc.trainer.sample_blocks import ONE_BLOCK, BlockSamples, BlockShare, FeatureKinds, blocks_of
from tests.plans import empty_trainer_plan

# In table order: one-hot, ragged, ragged with weights, one-hot.
KINDS = FeatureKinds([False, True, True, False], [False, False, True, False])
NUM_SAMPLES = 7


def plan() -> TrainerPlan:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 4, (2, NUM_SAMPLES)).astype(np.int32)
    num_ids = 2 * NUM_SAMPLES + int(lengths.sum())
    return replace(
        empty_trainer_plan(),
        num_samples=NUM_SAMPLES,
        num_global_samples=NUM_SAMPLES,
        labels=np.arange(NUM_SAMPLES, dtype=np.float32),
        dense=np.arange(2 * NUM_SAMPLES, dtype=np.float32).reshape(NUM_SAMPLES, 2),
        sample_rows=np.arange(num_ids, dtype=np.int32),
        bag_lengths=lengths.ravel(),
        weights=np.arange(lengths[1].sum(), dtype=np.float32),
        sample_weights=np.arange(NUM_SAMPLES, dtype=np.float32),
        groups=np.arange(NUM_SAMPLES),
        loss_divisors=np.array([3.5]),
        item_counts=np.arange(NUM_SAMPLES),
        positive_weights=np.array([1.5]),
    )


def by_feature(block: BlockSamples) -> list[list[list[int]]]:
    """Return the rows of each feature and sample."""
    lengths = iter(block.bag_lengths)
    rows, found = block.sample_rows.tolist(), []
    for is_ragged in KINDS.ragged:
        counts = next(lengths).tolist() if is_ragged else [1] * len(block.labels)
        found.append([[rows.pop(0) for _ in range(count)] for count in counts])
    assert rows == []
    return found


@pytest.mark.parametrize("total", [1, 2, 4, 16])
def test_blocks_have_all_samples_in_order(total: int) -> None:
    whole = plan()
    blocks = list(blocks_of(whole, BlockShare(0, total, total), KINDS))
    assert [len(block.labels) for block in blocks] == np.diff(share_boundaries(NUM_SAMPLES, total)).tolist()
    assert np.concatenate([block.labels for block in blocks]).tolist() == whole.labels.tolist()
    assert np.concatenate([block.dense for block in blocks]).tolist() == whole.dense.tolist()
    assert np.concatenate([block.weights for block in blocks]).tolist() == whole.weights.tolist()
    joined = [list(chain(*parts)) for parts in zip(*map(by_feature, blocks), strict=True)]
    assert joined == by_feature(one_block(whole))


def test_the_blocks_of_all_trainers_are_those_of_one() -> None:
    bounds = BlockShare(0, 8, 8).bounds(30)
    of_two = [BlockShare(first, 4, 8).bounds(30) for first in (0, 4)]
    assert [size for part in of_two for size in np.diff(part)] == np.diff(bounds).tolist()
    assert [part[0] for part in of_two] == [0, 0]


def one_block(plan: TrainerPlan) -> BlockSamples:
    (block,) = blocks_of(plan, ONE_BLOCK, KINDS)
    return block


def test_one_block_has_the_arrays_of_the_plan() -> None:
    whole = plan()
    block = one_block(whole)
    for name in ("labels", "dense", "sample_rows", "weights"):
        assert getattr(block, name) is getattr(whole, name)
    assert block.bag_lengths.dtype == np.int64
    assert block.bag_lengths.ravel().tolist() == whole.bag_lengths.tolist()


def test_a_share_without_samples_has_empty_blocks() -> None:
    kinds = FeatureKinds([False], [False])
    nothing = replace(empty_trainer_plan(), num_global_samples=1)
    blocks = list(blocks_of(nothing, BlockShare(2, 2, 4), kinds))
    assert [(len(block.labels), len(block.sample_rows)) for block in blocks] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("share", [ONE_BLOCK, BlockShare(0, 4, 4)])
def test_weights_and_groups_stay_with_their_samples(share: BlockShare) -> None:
    blocks = list(blocks_of(plan(), share, KINDS))
    for block in blocks:
        assert block.sample_weights.tolist() == block.groups.tolist() == block.labels.tolist()
        assert block.item_counts.tolist() == block.labels.tolist()
        assert block.positive_weights.dtype == np.float32
        assert block.positive_weights.tolist() == [1.5]
        assert block.loss_divisors.dtype == np.float32
        assert block.loss_divisors.tolist() == [3.5]
    assert sum(len(block.groups) for block in blocks) == NUM_SAMPLES


@pytest.mark.parametrize("share", [ONE_BLOCK, BlockShare(0, 3, 3), BlockShare(1, 1, 2)])
def test_values_of_elements_stay_with_their_ids(share: BlockShare) -> None:
    """A sequence with two real values and an integer, then one with an integer."""
    lengths = np.array([[2, 0, 3, 1, 0, 4, 2], [1, 1, 0, 0, 2, 5, 1]], np.int32)
    first, second = lengths.sum(axis=1)
    ids = np.arange(first + second, dtype=np.int32)
    whole = replace(
        plan(),
        sample_rows=ids,
        bag_lengths=lengths.ravel(),
        weights=np.concatenate([ids[:first] / 2, ids[:first] / 4]).astype(np.float32),
        integers=np.concatenate([ids[:first] * 10, ids[first:] * 100]).astype(np.int64),
    )
    kinds = FeatureKinds([True, True], [2, 0], [1, 1])
    start, stop = share_boundaries(NUM_SAMPLES, share.total)[share.first : share.first + share.count + 1 : share.count]
    if share.count == 1 and share is not ONE_BLOCK:
        before, inside = lengths[:, :start].sum(axis=1), lengths[:, start:stop].sum(axis=1)
        mine = [np.arange(begin + b, begin + b + n) for begin, b, n in zip((0, first), before, inside, strict=True)]
        whole = replace(
            whole,
            num_samples=stop - start,
            labels=whole.labels[start:stop],
            dense=whole.dense[start:stop],
            sample_weights=whole.sample_weights[start:stop],
            groups=whole.groups[start:stop],
            item_counts=whole.item_counts[start:stop],
            bag_lengths=lengths[:, start:stop].ravel(),
            sample_rows=np.concatenate(mine).astype(np.int32),
            weights=np.concatenate([mine[0] / 2, mine[0] / 4]).astype(np.float32),
            integers=np.concatenate([mine[0] * 10, mine[1] * 100]),
        )
    for block in blocks_of(whole, share, kinds):
        num_first, num_second = block.bag_lengths.sum(axis=1)
        rows = block.sample_rows
        assert block.weights.tolist() == [*(rows[:num_first] / 2), *(rows[:num_first] / 4)]
        assert block.integers.tolist() == [*(rows[:num_first] * 10), *(rows[num_first:] * 100)]
        assert len(rows) == num_first + num_second
