"""Index arrays of kernels against loops over samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
from bagpipe_hpc.trainer.gray_blocks import CRITICAL_GRADIENTS, EVERYTHING, GrayBlocks
from bagpipe_hpc.trainer.row_optimizer import ordered_sum

# In table order: tags, topics; site.
SCHEMA = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
    )
)
MEANS = Config.model_validate({"tables": {"tags": {"pooling": "mean"}, "topics": {"pooling": "mean"}}})


def plan(**arrays: Any) -> Any:
    return SimpleNamespace(**arrays)


def uses_of(layout: FeatureLayout, arrays: Any, num_rows: int) -> RowUses:
    return index_uses(layout, arrays, index_bags(layout, arrays), num_rows)


# Two samples: tags [4, 4, 1] and []; topics [1] with weight 0.5 and [4, 0] with weights 2 and -2; sites 5 and 6.
BAGS = plan(
    num_samples=2,
    sample_rows=np.array([4, 4, 1, 1, 4, 0, 5, 6], np.int32),
    bag_lengths=np.array([3, 0, 1, 2], np.int32),
    weights=np.array([0.5, 2.0, -2.0], np.float32),
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
    arrays = plan(num_samples=1, sample_rows=np.array([0, 1], np.int32), bag_lengths=np.array([1], np.int32),
                  weights=np.empty(0, np.float32))  # fmt: skip
    uses = uses_of(layout, arrays, num_rows=2)
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
    arrays = plan(
        num_samples=2, sample_rows=np.array([0, 0, 1, 0, 2, 2], np.int32), bag_lengths=np.empty(0, np.int32)
    )  # fmt: skip
    layout = layout_of(schema, Config())
    assert len(index_bags(layout, arrays).offsets) == 0
    uses = uses_of(layout, arrays, num_rows=3)
    assert uses.ends.tolist() == [0, 3, 4, 6]
    assert uses.vectors.tolist() == [0, 3, 5, 2, 1, 4]


def test_rows_with_many_uses_are_hot() -> None:
    rows = np.repeat(np.arange(3, dtype=np.int32), [HOT_USES, HOT_USES + 1, 1])
    arrays = plan(num_samples=len(rows), sample_rows=rows, bag_lengths=np.empty(0, np.int32))
    layout = layout_of(Schema(tables=SCHEMA.tables[1:2]), Config())
    assert uses_of(layout, arrays, num_rows=3).hot_rows.tolist() == [1]


def test_no_samples() -> None:
    empty = np.empty(0, np.int32)
    arrays = plan(num_samples=0, sample_rows=empty, bag_lengths=empty, weights=np.empty(0, np.float32))
    layout = layout_of(SCHEMA, MEANS)
    assert index_bags(layout, arrays).offsets.tolist() == [0]
    assert uses_of(layout, arrays, num_rows=2).ends.tolist() == [0, 0, 0]


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
    arrays = plan(num_samples=len(rows), sample_rows=sample_rows, bag_lengths=np.empty(0, np.int32))
    uses = uses_of(layout, arrays, num_rows=28)
    assert uses.vectors.tolist() == np.argsort(all_rows.ravel(), kind="stable").tolist()
    assert np.diff(uses.ends).tolist() == np.bincount(all_rows.ravel(), minlength=28).tolist()


# Trainer 1 of 3, with own gradients of the rows 0 to 2 of update_slots. Trainer 0 uses the rows 3 and 1, trainer 2 the
# rows 1, 0 and 4; two of these are critical.
COUNTS = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 2]], np.int32)
PUSHES = plan(push_index=np.array([3, 1, 1, 0, 4], np.int32), update_slots=np.zeros(6, np.int32))


def test_terms_stand_in_the_order_of_trainers() -> None:
    positions = np.array([0, 1, 2, 3, 4])
    terms = index_terms(positions, 3, 1, PUSHES, GrayBlocks(COUNTS), EVERYTHING)
    assert terms.ends.tolist() == [0, 2, 5, 6, 7, 8]
    assert terms.terms.tolist() == [-1, 3, 1, -2, 2, -3, 0, 4]
    leaves = index_leaves(positions, 3, 1, PUSHES, GrayBlocks(COUNTS), EVERYTHING)
    none = NO_GRADIENT
    assert leaves.tolist() == [[none, -1, 3], [1, -2, 2], [none, -3, none], [0, none, none], [none, none, 4]]


@pytest.mark.parametrize(("rank", "expected"), [(0, [-2, 0, 1]), (1, [0, -2, 1]), (2, [0, 1, -2])])
def test_own_gradients_stand_at_the_rank_of_their_trainer(rank: int, expected: list[int]) -> None:
    counts = np.array([[1, 0, 0, 0]] * 3, np.int32)
    counts[rank] = 0
    arrays = plan(push_index=np.array([1, 1], np.int32), update_slots=np.zeros(2, np.int32))
    assert index_terms(np.array([1]), 2, rank, arrays, GrayBlocks(counts), EVERYTHING).terms.tolist() == expected


def test_terms_of_a_part() -> None:
    terms = index_terms(np.array([1, 2]), 3, 1, PUSHES, GrayBlocks(COUNTS), CRITICAL_GRADIENTS)
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
