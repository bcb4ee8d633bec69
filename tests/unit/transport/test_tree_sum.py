"""The order of the sum of dense gradients, and how its parts travel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.transport.tree_sum import add_up, segments_of, travels_whole, tree_order
from tests.dense_sum import tree_sum


@pytest.mark.parametrize(
    ("num_contributions", "additions"),
    [
        (1, []),
        (2, [(0, 1)]),
        (3, [(0, 1), (0, 2)]),
        (5, [(0, 1), (2, 3), (0, 2), (0, 4)]),
        (6, [(0, 1), (2, 3), (4, 5), (0, 2), (0, 4)]),
    ],
)
def test_the_tree(num_contributions: int, additions: list[tuple[int, int]]) -> None:
    assert tree_order(num_contributions) == additions


@settings(deadline=None)
@given(
    num_trainers=st.integers(2, 33), num_elements=st.integers(1, 40), mine=st.integers(0, 32), seed=st.integers(0, 9)
)
def test_the_additions_are_those_of_the_plain_tree(num_trainers: int, num_elements: int, mine: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    contributions = (random.standard_normal((num_trainers, num_elements)) * 1e4).astype(np.float32)
    expected = tree_sum(list(contributions))
    total = contributions[mine % num_trainers]
    add_up(list(contributions), tree_order(num_trainers), total)
    np.testing.assert_array_equal(total, expected)


@given(num_elements=st.integers(0, 1_000), num_trainers=st.integers(1, 50))
def test_segments_cover_the_buffer_once(num_elements: int, num_trainers: int) -> None:
    segments = segments_of(num_elements, num_trainers)
    covered = np.concatenate([np.arange(num_elements)[segment] for segment in segments])
    assert covered.tolist() == list(range(num_elements))
    lengths = [segment.stop - segment.start for segment in segments]
    assert max(lengths) - min(lengths) <= 1
    if not travels_whole(num_elements, num_trainers):
        assert min(lengths) > 0


def test_small_buffers_and_those_of_two_trainers_travel_whole() -> None:
    assert travels_whole(10**8, 2)
    assert travels_whole(8_192, 3)
    assert not travels_whole(8_193, 3)
    assert travels_whole(100, 1_000)
