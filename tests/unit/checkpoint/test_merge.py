"""Rows of several streams merged, against dictionaries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.checkpoint.merge import RowStream, merge_newest

STREAM = st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=4)


@given(st.lists(STREAM, max_size=5))
def test_merging_keeps_the_row_of_the_last_stream(streams: list[list[list[int]]]) -> None:
    expected: dict[int, float] = {}
    pieces = []
    for number, stream in enumerate(streams):
        keys = sorted({key for piece in stream for key in piece})
        expected |= dict.fromkeys(keys, float(number))
        cuts = [len(keys) * i // 3 for i in range(4)]
        pieces.append(
            [(np.array(keys[a:b], np.int64), np.full((b - a, 1), number, np.float32)) for a, b in pairwise(cuts)]
        )
    merged = list(merge_newest([iter(stream) for stream in pieces]))
    found = [(key, row[0]) for keys, rows in merged for key, row in zip(keys.tolist(), rows, strict=True)]
    assert found == sorted(expected.items())


def test_rows_are_taken_up_to_a_key() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(6, 1)
    stream = RowStream(iter([(np.array([1, 4, 5]), rows[:3]), (np.array([7, 9, 12]), rows[3:])]))
    assert [keys.tolist() for keys, _ in stream.take_all(8)] == [[1, 4, 5], [7]]
    assert [keys.tolist() for keys, _ in stream.take_all(9)] == []
    assert [keys.tolist() for keys, _ in stream.take_all(99)] == [[9, 12]]
