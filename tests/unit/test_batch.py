from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.schema import Schema
from tests.unit.conftest import AssertEqual, MakeBatch


@given(cuts=st.lists(st.integers(0, 20), max_size=4), seed=st.integers(0, 100))
def test_slices_put_together_give_the_whole(
    schema: Schema, make_batch: MakeBatch, assert_equal: AssertEqual, cuts: list[int], seed: int
) -> None:
    batch = make_batch(schema, 20, seed)
    borders = [0, *sorted(cuts), 20]
    pieces = [batch.slice(start, stop) for start, stop in pairwise(borders)]
    assert_equal(Batch.concatenate(pieces), batch)


def test_a_slice_of_bags() -> None:
    bags = Bags(np.array([0, 2, 2, 5]), np.array([10, 11, 12, 13, 14]))
    piece = bags.slice(1, 3)
    assert piece.offsets.tolist() == [0, 0, 3]
    assert piece.ids.tolist() == [12, 13, 14]


def test_a_single_piece_is_not_copied(schema: Schema, make_batch: MakeBatch) -> None:
    batch = make_batch(schema, 3)
    assert Batch.concatenate([batch]) is batch


def test_taken_samples_have_their_bags(schema: Schema, make_batch: MakeBatch, assert_equal: AssertEqual) -> None:
    batch = make_batch(schema, 9)
    singles = [batch.slice(sample, sample + 1) for sample in (7, 0, 4)]
    assert_equal(batch.take(np.array([7, 0, 4])), Batch.concatenate(singles))


def test_ids_of_bags_count(schema: Schema, make_batch: MakeBatch) -> None:
    batch = make_batch(schema, 9)
    assert batch.num_ids == batch.ids.size + sum(len(bags.ids) for bags in batch.bags.values())
    assert batch.num_ids > batch.ids.size


def test_parts_of_a_read_only_batch_are_read_only(schema: Schema, make_batch: MakeBatch) -> None:
    batch = replace(make_batch(schema, 9), read_only=True)
    parts = [batch.slice(0, 4), batch.take(np.array([5, 4]))]
    assert all(part.read_only for part in [*parts, Batch.concatenate(parts)])
    assert not make_batch(schema, 9).read_only
