from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from bagpipe_hpc.data.importing.ranks import Ranks
from bagpipe_hpc.data.importing.vocabularies import merge_counts
from bagpipe_hpc.data.vocabulary import ValueCounter
from tests.unit.data.importing.conftest import OnRanks


@given(
    shares=st.lists(st.lists(st.integers(0, 40), max_size=60), min_size=1, max_size=4),
    min_count=st.integers(1, 4),
    dtype=st.sampled_from([np.uint32, np.int64]),
)
def test_all_ranks_agree_on_the_frequent_values(
    on_ranks: OnRanks, shares: list[list[int]], min_count: int, dtype: DTypeLike
) -> None:
    def play(ranks: Ranks) -> dict[int, int]:
        counter = ValueCounter(dtype)
        counter.add(np.array(shares[ranks.rank], np.int64))
        values, counts = merge_counts(counter, min_count, ranks).items()
        return {int(v): int(n) for v, n in zip(values, counts, strict=True) if n >= min_count}

    expected = {v: n for v, n in Counter(v for share in shares for v in share).items() if n >= min_count}
    assert on_ranks(len(shares), play) == [expected] * len(shares)


@pytest.mark.parametrize("counts", [(2**32 - 2, 5), (5, 2**32 - 2)])
def test_counts_stop_at_the_limit(counts: tuple[int, int]) -> None:
    counter = ValueCounter()
    for count in counts:
        counter.add_counts(np.array([7]), np.array([count], np.uint32))
    assert [array.tolist() for array in counter.items()] == [[7], [2**32 - 1]]
