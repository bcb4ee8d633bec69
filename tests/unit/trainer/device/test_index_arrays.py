"""Index arrays of kernels against loops over samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.device.feature_layout import FeatureLayout, layout_of
from bagpipe_hpc.trainer.device.index_arrays import (
    HOT_USES,
    NO_GRADIENT,
    RowUses,
    halving_lanes,
    index_bags,
    index_leaves,
    index_terms,
    index_uses,
)
from bagpipe_hpc.trainer.iteration_lists import GradientList
from bagpipe_hpc.trainer.row_optimizer import ordered_sum
from bagpipe_hpc.trainer.sample_blocks import BlockSamples

# In table order: tags, topics; site.
SCHEMA = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
    )
)
MEANS = Config.model_validate({"tables": {"tags": {"pooling": "mean"}, "topics": {"pooling": "mean"}}})


NO_LENGTHS, NO_WEIGHTS = np.empty((0, 0), np.int64), np.empty(0, np.float32)


def samples_of(
    num_samples: int,
    sample_rows: NDArray[np.int32],
    lengths: NDArray[np.int64] = NO_LENGTHS,
    weights: NDArray[np.float32] = NO_WEIGHTS,
) -> BlockSamples:
    """Samples without labels and dense features."""
    return BlockSamples(
        np.zeros(num_samples, np.float32), np.zeros((num_samples, 0), np.float32), sample_rows, lengths, weights
    )  # fmt: skip


def uses_of(layout: FeatureLayout, samples: BlockSamples, num_rows: int) -> RowUses:
    return index_uses(layout, samples, index_bags(layout, samples), num_rows)


# Two samples: tags [4, 4, 1] and []; topics [1] with weight 0.5 and [4, 0] with weights 2 and -2; sites 5 and 6.
BAGS = samples_of(
    2,
    np.array([4, 4, 1, 1, 4, 0, 5, 6], np.int32),
    np.array([[3, 0], [1, 2]], np.int64),
    np.array([0.5, 2.0, -2.0], np.float32),
)


def test_bags_begin_where_the_ones_before_end() -> None:
    index = index_bags(layout_of(SCHEMA, MEANS), BAGS)
    assert index.offsets.tolist() == [0, 3, 3, 4, 6, 7, 8]
    assert index.weight_shifts.tolist() == [0, -3, 0]


def test_uses_of_rows_stand_in_the_order_of_the_ids() -> None:
    """Vectors are numbered by sample, then by feature: tags 0, site 1, topics 2."""
    uses = uses_of(layout_of(SCHEMA, MEANS), BAGS, num_rows=7)
    assert uses.ends.tolist() == [0, 1, 3, 3, 3, 6, 7, 8]
    assert uses.vectors.tolist() == [5, 0, 2, 0, 0, 5, 1, 4]
    assert uses.divisors.tolist() == [1, 3, 0.5, 3, 3, 1, 1, 1]  # weights of sum zero: divided by 1
    assert uses.weights.tolist() == [-2, 1, 0.5, 1, 1, 2, 1, 1]


def test_arrays_that_no_feature_needs_are_empty() -> None:
    layout = layout_of(Schema(tables=SCHEMA.tables[:2]), Config())
    samples = samples_of(1, np.array([0, 1], np.int32), np.array([[1]], np.int64))
    uses = uses_of(layout, samples, num_rows=2)
    assert len(uses.divisors) == len(uses.weights) == 0
    assert uses.vectors.tolist() == [0, 1]


def test_uses_of_one_hot_features_stand_in_the_order_of_samples() -> None:
    """As in torch's backward pass of an embedding of shape (samples, features)."""
    schema = Schema(
        tables=(
            TableSchema(name="item", num_embeddings=9),
            TableSchema(name="site", num_embeddings=9),
            TableSchema(name="next", num_embeddings=9, shares="item"),
        )
    )
    samples = samples_of(2, np.array([0, 0, 1, 0, 2, 2], np.int32))
    layout = layout_of(schema, Config())
    assert len(index_bags(layout, samples).offsets) == 0
    uses = uses_of(layout, samples, num_rows=3)
    assert uses.ends.tolist() == [0, 3, 4, 6]
    assert uses.vectors.tolist() == [0, 3, 5, 2, 1, 4]


def test_rows_with_many_uses_are_hot() -> None:
    rows = np.repeat(np.arange(3, dtype=np.int32), [HOT_USES, HOT_USES + 1, 1])
    layout = layout_of(Schema(tables=SCHEMA.tables[1:2]), Config())
    assert uses_of(layout, samples_of(len(rows), rows), num_rows=3).hot_rows.tolist() == [1]


def test_no_samples() -> None:
    samples = samples_of(0, np.empty(0, np.int32), np.empty((2, 0), np.int64))
    layout = layout_of(SCHEMA, MEANS)
    assert index_bags(layout, samples).offsets.tolist() == [0]
    assert uses_of(layout, samples, num_rows=2).ends.tolist() == [0, 0, 0]


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), max_size=20), st.integers(1, 4))
def test_uses_are_a_stable_sort(rows: list[tuple[int, ...]], num_tables: int) -> None:
    """Of samples with four one-hot features, the last of which share the table of the first one."""
    shares = [None if feature < num_tables else "t0" for feature in range(4)]
    tables = [TableSchema(name=f"t{n}", num_embeddings=9, shares=table) for n, table in enumerate(shares)]
    layout = layout_of(Schema(tables=tuple(tables)), Config())
    # (samples, features): tables have no rows in common
    offsets = [7 * feature if feature < num_tables else 0 for feature in range(4)]
    all_rows = np.array(rows, np.int32).reshape(-1, 4) + np.array(offsets, np.int32)
    sample_rows = all_rows.T[layout.features].ravel()
    uses = uses_of(layout, samples_of(len(rows), sample_rows), num_rows=28)
    assert uses.vectors.tolist() == np.argsort(all_rows.ravel(), kind="stable").tolist()
    assert np.diff(uses.ends).tolist() == np.bincount(all_rows.ravel(), minlength=28).tolist()


def updates_of(positions: list[int], num_own: int, index: list[int], counts: list[int]) -> GradientList:
    return GradientList(
        np.array(positions, np.int64), np.zeros(len(positions), np.int32), num_own, np.array(index, np.int64),
        np.array(counts, np.int64), np.cumsum([0, *counts]).astype(np.int64),
    )  # fmt: skip


def test_terms_stand_in_the_order_of_trainers() -> None:
    """Trainer 1 of 3 has own gradients of three rows. Trainer 0 uses the rows 3 and 1, trainer 2 the rows 1, 0, 4."""
    updates = updates_of([0, 1, 2, 3, 4], 3, [3, 1, 1, 0, 4], [2, 0, 3])
    terms = index_terms(updates, 1)
    assert terms.ends.tolist() == [0, 2, 5, 6, 7, 8]
    assert terms.terms.tolist() == [-1, 3, 1, -2, 2, -3, 0, 4]
    none = NO_GRADIENT
    leaves = index_leaves(updates, 1)
    assert leaves.tolist() == [[none, -1, 3], [1, -2, 2], [none, -3, none], [0, none, none], [none, none, 4]]
    assert terms.terms.dtype == leaves.dtype == np.int32


@pytest.mark.parametrize(("rank", "expected"), [(0, [-2, 0, 1]), (1, [0, -2, 1]), (2, [0, 1, -2])])
def test_own_gradients_stand_at_the_rank_of_their_trainer(rank: int, expected: list[int]) -> None:
    counts = [1, 1, 1]
    counts[rank] = 0
    assert index_terms(updates_of([1], 1, [0, 0], counts), rank).terms.tolist() == expected


def test_own_gradients_stand_at_the_positions_of_their_rows() -> None:
    terms = index_terms(updates_of([1, 2], 2, [0, 0], [1, 0, 1]), 1)
    assert terms.ends.tolist() == [0, 3, 4]
    assert terms.terms.tolist() == [0, -2, 1, -3]


@given(st.integers(1, 200))
def test_sums_over_halves_of_lanes_are_ordered_sums(num_columns: int) -> None:
    values = torch.rand(num_columns, generator=torch.Generator().manual_seed(num_columns))
    lanes = halving_lanes(num_columns)
    assert sorted(lanes[lanes >= 0].tolist()) == list(range(num_columns))
    assert len(lanes) == 1 << (num_columns - 1).bit_length()
    sums = torch.where(torch.from_numpy(lanes) >= 0, values[torch.from_numpy(lanes).long()], 0.0)
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    assert sums.item() == ordered_sum(values.clone()).item()
