"""The newest order of each key, compared with a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.data.importing.newest_order import NewestOrder


@given(st.lists(st.lists(st.tuples(st.integers(-1, 5), st.integers(-3, 9)), max_size=30), max_size=4))
def test_any_lines(blocks: list[list[tuple[int, int]]]) -> None:
    newest, known = NewestOrder(), dict[int, float]()
    for block in blocks:
        expected = []
        for key, order in block:
            expected.append(known.get(key, -np.inf))
            if key >= 0:
                known[key] = max(known.get(key, -np.inf), order)
        keys = np.array([key for key, _ in block], np.int64)
        copied = newest.copy()
        assert newest.add(keys, np.array([order for _, order in block], np.float64)).tolist() == expected
        assert copied.add(keys[:1], np.zeros(len(keys[:1]))).tolist() == expected[:1], "a copy does not change"
    assert dict(zip(*(each.tolist() for each in newest.items()), strict=True)) == known


def test_many_keys() -> None:
    newest = NewestOrder()
    for _ in range(2):
        newest.add(np.arange(100_000), np.arange(100_000.0))
    assert newest.add(np.arange(100_000), np.zeros(100_000)).tolist() == list(range(100_000))
