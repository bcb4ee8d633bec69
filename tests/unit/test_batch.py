from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
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


def bags_of_four() -> Bags:
    """Return bags of 2, 0, 4 and 1 ids, with values."""
    offsets = np.array([0, 2, 2, 6, 7])
    return Bags(offsets, np.arange(7) * 10, np.arange(7, dtype=np.float32), {"time": np.arange(7) + 100})


def listed(bags: Bags) -> list[list[int]]:
    """Return the ids of each bag, and see that weights and elements are still theirs."""
    assert bags.weights is not None
    assert (bags.weights * 10).tolist() == bags.ids.tolist()
    assert ((bags.elements["time"] - 100) * 10).tolist() == bags.ids.tolist()
    return [bags.ids[start:stop].tolist() for start, stop in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [[10], [], [50], [60]]),
        (3, [[0, 10], [], [30, 40, 50], [60]]),
        (4, [[0, 10], [], [20, 30, 40, 50], [60]]),
    ],
)
def test_the_newest(length: int, expected: list[list[int]]) -> None:
    assert listed(bags_of_four().newest(length)) == expected


def test_slices_and_picks() -> None:
    assert listed(bags_of_four().slice(1, 3)) == [[], [20, 30, 40, 50]]
    assert listed(bags_of_four().take(np.array([3, 0, 3]))) == [[60], [0, 10], [60]]
    assert listed(Bags.concatenate([bags_of_four().slice(2, 4), bags_of_four().slice(0, 2)])) == [
        [20, 30, 40, 50],
        [60],
        [0, 10],
        [],
    ]


def test_weights_and_groups_of_a_batch_stay_with_their_samples() -> None:
    batch = Batch(
        np.arange(8, dtype=np.float32).reshape(4, 2),
        np.zeros((4, 0), np.float32),
        np.zeros((4, 1), np.int64),
        {"seen": bags_of_four()},
        sample_weights=np.arange(4, dtype=np.float32),
        groups=np.arange(4) + 7,
    )
    for found, samples in (
        (batch.slice(1, 3), [1, 2]),
        (batch.take(np.array([3, 1])), [3, 1]),
        (Batch.concatenate([batch.slice(2, 4), batch.slice(0, 1)]), [2, 3, 0]),
    ):
        assert found.sample_weights is not None
        assert found.groups is not None
        assert found.sample_weights.tolist() == (found.groups - 7).tolist() == samples
        assert found.labels.tolist() == [[2 * sample, 2 * sample + 1] for sample in samples]
