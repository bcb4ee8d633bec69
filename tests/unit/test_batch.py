from __future__ import annotations

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


def test_ragged_slice() -> None:
    ragged = Bags(np.array([0, 2, 2, 5]), np.array([10, 11, 12, 13, 14]))
    piece = ragged.slice(1, 3)
    assert piece.offsets.tolist() == [0, 0, 3]
    assert piece.ids.tolist() == [12, 13, 14]


def test_a_single_piece_is_not_copied(schema: Schema, make_batch: MakeBatch) -> None:
    batch = make_batch(schema, 3)
    assert Batch.concatenate([batch]) is batch
