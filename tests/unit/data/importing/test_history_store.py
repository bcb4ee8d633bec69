"""The newest entries of each key, compared with lists of Python."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.data.importing.history_store import HistoryStore

LINES = st.lists(st.tuples(st.integers(-1, 3), st.booleans()), max_size=40)


@given(st.lists(LINES, max_size=4), st.integers(1, 9), st.integers(1, 3))
def test_any_lines(blocks: list[list[tuple[int, bool]]], max_length: int, width: int) -> None:
    store, known = HistoryStore(width, max_length), defaultdict[int, list[int]](list)
    number = 0
    for block in blocks:
        keys = np.array([key for key, _ in block], np.int64)
        enters = np.array([enter and key >= 0 for key, enter in block], np.bool_)
        first = np.arange(number, number + len(block))
        entries = np.stack([first + 1000 * column for column in range(width)])
        expected: list[int] = []
        lengths: list[int] = []
        for key, enter in zip(keys.tolist(), enters.tolist(), strict=True):
            before = known[key][-max_length:]
            expected += before
            lengths.append(len(before))
            if enter:
                known[key].append(number)
            number += 1
        rings = store.rings_of(keys)
        assert store.lengths(rings, enters).tolist() == lengths
        found = store.extend(rings, enters, entries, np.array(lengths, np.int64))
        assert found.tolist() == [[each + 1000 * column for each in expected] for column in range(width)]
    kept = store.read(store.keys)[1]
    assert kept[0].tolist() == [each for key in store.keys.tolist() for each in known[key][-max_length:]]


@pytest.mark.parametrize("max_length", [1, 50])
def test_memory_grows_with_keys_and_not_with_lines(max_length: int) -> None:
    store = HistoryStore(2, max_length)
    random = np.random.default_rng(0)
    for _ in range(200):
        keys = random.integers(0, 300, 1000)
        store.add(keys, np.ones(1000, np.bool_), np.zeros((2, 1000), np.int64))
    assert len(store.keys) == 300
    assert store.num_bytes < 16 * 1300 + 60 * 1.5 * 1300 + 3 * 16 * 300 * max_length + 3 * 16 * 1024


def test_many_keys_and_rings_that_find_no_room() -> None:
    store, keys = HistoryStore(1, 6), np.repeat(np.arange(5000), 7)
    store.add(keys, np.ones(len(keys), np.bool_), np.arange(len(keys))[None])
    lengths, entries = store.read(np.arange(5000))
    assert (lengths == 6).all()
    assert np.array_equal(entries[0].reshape(-1, 6), np.arange(len(keys)).reshape(-1, 7)[:, 1:])
