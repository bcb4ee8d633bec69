"""Index arrays that the host makes for the kernels, in one pass each, from the lists and samples of an iteration.

They depend on the plan alone, so the prefetch thread makes them (`triton_kernels.py`), and they travel with the
iteration. Positions are not checked: the plan has them right.

A *bag* is the ids of one sample in one feature; a one-hot feature has bags of one id. Bags have numbers in table order:
place of the feature * number of samples + sample. A *vector* is what a bag is pooled into. Vectors have numbers in the
order of the model's input: sample * number of features + number of the feature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.trainer.device.feature_layout import MEAN, ONE_HOT, SEQUENCE, WEIGHTED, FeatureLayout
from bagpipe_hpc.trainer.iteration_lists import GradientList
from bagpipe_hpc.trainer.sample_blocks import BlockSamples

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]

HOT_USES = 128  # a row with more uses is hot
NO_GRADIENT = -(2**31)  # in the leaves of a tree: this trainer has no gradient of the row


class BagIndex(NamedTuple):
    """Where the ids of each bag stand.

    Args:
        offsets: Where each bag begins in BlockSamples.sample_rows, and the end of the last one, int32, shape
            (F * num_samples + 1,). Empty if no feature is ragged: then bag k is id k.
        weight_shifts: For the feature in each place, what to add to the position of an id in sample_rows to get the
            position of its weight in BlockSamples.weights, int32, shape (F,). 0 for features without weights.
    """

    offsets: Int32Array
    weight_shifts: Int32Array


class RowUses(NamedTuple):
    """The uses of each row of an iteration, in the order in which its gradients are added.

    This is the order of torch's backward pass of trainer/pooling.py: if any feature is ragged, that of sample_rows;
    otherwise sample by sample, within a sample by number of the feature. The orders differ for features that share a
    table.

    Args:
        ends: int32, shape (num_rows + 1,): row r has the uses from ends[r] to ends[r + 1].
        vectors: The number of the vector of each use, int32, shape (num_ids,).
        divisors: What the gradient of the vector is divided by, float32, shape (num_ids,). Empty if no feature is
            pooled by mean.
        weights: What the result is multiplied by, float32, shape (num_ids,). Empty if no feature is weighted.
        hot_rows: The rows with more than HOT_USES uses, int32, ascending. Each of them gets programs of its own.
    """

    ends: Int32Array
    vectors: Int32Array
    divisors: Float32Array
    weights: Float32Array
    hot_rows: Int32Array


class GradientTerms(NamedTuple):
    """The gradients of each updated row, in the order in which they are added: ascending trainers.

    Args:
        ends: int32, shape (n + 1,): row r has the terms from ends[r] to ends[r + 1].
        terms: int32, shape (ends[n],). A term m >= 0 is row m of the gradients that arrived; a term m < 0 is row -1 - m
            of this trainer's own gradients.
    """

    ends: Int32Array
    terms: Int32Array


def pooled_samples(layout: FeatureLayout, samples: BlockSamples) -> BlockSamples:
    """Return samples without their sequences. Ids and weights of the other features stay in their order.

    Args:
        layout: The features, sequences included.
        samples: The samples.
    """
    lengths, kinds = iter(samples.bag_lengths), layout.kinds.tolist()
    begin = begin_real = 0
    ids, weights, bag_lengths = [samples.sample_rows[:0]], [samples.weights[:0]], [samples.bag_lengths[:0]]
    for kind, num_reals in zip(kinds, layout.feature_kinds.reals, strict=True):
        of_bags = [] if kind == ONE_HOT else [next(lengths)]
        num_ids = int(of_bags[0].sum()) if of_bags else len(samples.labels)
        if kind != SEQUENCE:
            ids.append(samples.sample_rows[begin : begin + num_ids])
            weights.append(samples.weights[begin_real : begin_real + num_reals * num_ids])
            bag_lengths += [each[None] for each in of_bags]
        begin += num_ids
        begin_real += num_reals * num_ids
    return replace(
        samples,
        sample_rows=np.concatenate(ids),
        weights=np.concatenate(weights),
        bag_lengths=np.concatenate(bag_lengths),
    )


def index_bags(layout: FeatureLayout, samples: BlockSamples) -> BagIndex:
    """Return where the ids of each bag of the samples stand."""
    if not layout.has_bags:
        return BagIndex(np.empty(0, np.int32), np.zeros(len(layout.kinds), np.int32))
    return BagIndex(*_index_bags(layout.kinds, samples.bag_lengths, len(samples.labels)))


def index_uses(layout: FeatureLayout, samples: BlockSamples, bags: BagIndex, num_rows: int) -> RowUses:
    """Return the uses of each row of an iteration, by a stable counting sort.

    Args:
        layout: The features.
        samples: The samples.
        bags: Where their bags stand.
        num_rows: The number of rows: own rows and replicas.
    """
    num_ids = len(samples.sample_rows)
    vectors = np.empty(num_ids, dtype=np.int32)
    next_use = np.zeros(num_rows + 1, dtype=np.int32)
    _count(samples.sample_rows, next_use)
    ends = next_use.copy()
    divisors = np.empty(num_ids if layout.has_means else 0, dtype=np.float32)
    weights = np.empty(num_ids if layout.has_weights else 0, dtype=np.float32)
    if layout.has_bags:
        _place_uses_of_bags(
            layout.features, layout.kinds, samples.sample_rows, bags.offsets, samples.weights, next_use, vectors,
            divisors, weights,
        )  # fmt: skip
    else:
        _place_uses(layout.features, layout.table_ends, samples.sample_rows, next_use, vectors)
    hot_rows = np.flatnonzero(np.diff(ends) > HOT_USES).astype(np.int32)
    return RowUses(ends, vectors, divisors, weights, hot_rows)


def index_terms(updates: GradientList, rank: int) -> GradientTerms:
    """Return which gradients to add up for each updated row. The order is that of row_kernels.add_gradients.

    Args:
        updates: The rows, and the gradients that arrive.
        rank: The rank of this trainer among the trainers.
    """
    return GradientTerms(*_terms(updates.positions, updates.num_own, rank, updates.index, updates.starts))


def index_leaves(updates: GradientList, rank: int) -> Int32Array:
    """Return the gradient of each trainer for each updated row, for a sum in the order of a binary tree.

    Args:
        updates: As for `index_terms`.
        rank: As for `index_terms`.
    Returns:
        int32, shape (n, T): terms as in GradientTerms, NO_GRADIENT where a trainer does not use the row.
    """
    leaves = np.full((len(updates.positions), len(updates.counts)), NO_GRADIENT, dtype=np.int32)
    leaves[: updates.num_own, rank] = -1 - updates.positions[: updates.num_own]
    trainers = np.repeat(np.arange(len(updates.counts)), updates.counts)
    leaves[updates.index, trainers] = np.arange(len(updates.index))
    return leaves


def halving_lanes(num_columns: int) -> Int32Array:
    """Return an order of columns in which row_optimizer.ordered_sum is a sum over halves of a power of two.

    ordered_sum adds the second half of n columns to the first. If n is odd, one column has no partner. In the order
    that this function returns, a column without a partner has a padding column, -1, as its partner.

    Args:
        num_columns: At least 1.
    Returns:
        int32, shape (the least power of two >= num_columns,).
    """
    if num_columns == 1:
        return np.zeros(1, dtype=np.int32)
    half = (num_columns + 1) // 2
    first = halving_lanes(half)
    second = np.where((first >= 0) & (first < num_columns - half), first + half, -1)
    return np.concatenate([first, second]).astype(np.int32)


@compiled
def _index_bags(kinds: Int32Array, bag_lengths: Int64Array, num_samples: int) -> tuple[Int32Array, Int32Array]:
    offsets = np.empty(len(kinds) * num_samples + 1, dtype=np.int32)
    weight_shifts = np.zeros(len(kinds), dtype=np.int32)
    end = num_ragged = num_weights = 0
    for place in range(len(kinds)):
        begin, first = end, place * num_samples
        if kinds[place] == ONE_HOT:
            for sample in range(num_samples):
                offsets[first + sample] = begin + sample
            end += num_samples
        else:
            for sample in range(num_samples):
                offsets[first + sample] = end
                end += bag_lengths[num_ragged, sample]
            num_ragged += 1
        if kinds[place] & WEIGHTED:
            weight_shifts[place] = num_weights - begin
            num_weights += end - begin
    offsets[-1] = end
    return offsets, weight_shifts


@compiled
def _count(rows: Int32Array, ends: Int32Array) -> None:
    """Set ends[r] to the number of elements of rows that are less than r."""
    for position in range(len(rows)):
        ends[rows[position] + 1] += 1
    for row in range(1, len(ends)):
        ends[row] += ends[row - 1]


@compiled
def _place_uses(
    features: Int32Array, table_ends: Int32Array, sample_rows: Int32Array, next_use: Int32Array, vectors: Int32Array
) -> None:
    num_features = len(features)
    num_samples = len(sample_rows) // num_features
    # Only features of one table have rows in common. So the order of tables does not matter, and the rows of one table
    # fit into a near cache.
    for table in range(len(table_ends) - 1):
        for sample in range(num_samples):
            for place in range(table_ends[table], table_ends[table + 1]):
                row = sample_rows[place * num_samples + sample]
                vectors[next_use[row]] = sample * num_features + features[place]
                next_use[row] += 1


@compiled
def _place_uses_of_bags(
    features: Int32Array,
    kinds: Int32Array,
    sample_rows: Int32Array,
    offsets: Int32Array,
    all_weights: Float32Array,
    next_use: Int32Array,
    vectors: Int32Array,
    divisors: Float32Array,
    weights: Float32Array,
) -> None:
    num_features = len(features)
    num_samples = len(offsets) // num_features
    num_weights = 0
    for place in range(num_features):
        is_weighted = kinds[place] & WEIGHTED
        for sample in range(num_samples):
            start, stop = offsets[place * num_samples + sample], offsets[place * num_samples + sample + 1]
            divisor = np.float32(1.0)
            if kinds[place] & MEAN:
                divisor = np.float32(0.0 if is_weighted else stop - start)
                if is_weighted:
                    for position in range(num_weights, num_weights + stop - start):
                        divisor += all_weights[position]
                if divisor == 0:
                    divisor = np.float32(1.0)
            for position in range(start, stop):
                row = sample_rows[position]
                use = next_use[row]
                next_use[row] += 1
                vectors[use] = sample * num_features + features[place]
                if len(divisors):
                    divisors[use] = divisor
                if len(weights):
                    weights[use] = all_weights[num_weights + position - start] if is_weighted else np.float32(1.0)
            if is_weighted:
                num_weights += stop - start


@compiled
def _terms(
    positions: Int64Array, num_own: int, rank: int, index: Int64Array, starts: Int64Array
) -> tuple[Int32Array, Int32Array]:
    next_term = np.zeros(len(positions) + 1, dtype=np.int32)
    next_term[1 : num_own + 1] = 1
    for place in index:
        next_term[place + 1] += 1
    for place in range(1, len(next_term)):
        next_term[place] += next_term[place - 1]
    ends = next_term.copy()
    terms = np.empty(ends[-1], dtype=np.int32)
    for trainer in range(len(starts) - 1):
        if trainer == rank:
            for place in range(num_own):
                terms[next_term[place]] = -1 - positions[place]
                next_term[place] += 1
        for arrived in range(starts[trainer], starts[trainer + 1]):
            terms[next_term[index[arrived]]] = arrived
            next_term[index[arrived]] += 1
    return ends, terms
