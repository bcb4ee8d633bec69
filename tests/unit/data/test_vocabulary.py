from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, DTypeLike

from bagpipe_hpc.data.vocabulary import HashedVocabulary, ValueCounter, Vocabulary, require_min_count
from bagpipe_hpc.errors import ConfigError


def count(*values: ArrayLike, dtype: DTypeLike = np.int64) -> ValueCounter:
    counter = ValueCounter(dtype)
    for piece in values:
        counter.add(np.array(piece, dtype=np.int64))
    return counter


@given(
    pieces=st.lists(st.lists(st.one_of(st.integers(-1, 5), st.integers(0, 2**32 - 1)), max_size=40), max_size=4),
    dtype=st.sampled_from([np.uint32, np.int64]),
)
def test_counts_are_those_of_a_plain_counter(pieces: list[list[int]], dtype: DTypeLike) -> None:
    counter = count(*pieces, dtype=dtype)
    expected = Counter(value for piece in pieces for value in piece if value >= 0)
    values, counts = counter.items()
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == expected
    assert counter.num_distinct == len(expected)


def test_the_table_grows() -> None:
    values = np.random.default_rng(0).permutation(50_000).astype(np.int64)
    counter = count(*np.split(values, 50), values)
    assert counter.num_distinct == 50_000
    assert set(counter.items()[1].tolist()) == {2}


def test_rows_by_falling_count_then_value() -> None:
    vocabulary = Vocabulary(count([30, 10, 10, 20, 20, 20, 99], [30, -1, -1]).frequent(2))
    assert vocabulary.num_embeddings == 4
    assert vocabulary.encode(np.array([20, 10, 30, 99, 12345, -1])).tolist() == [1, 2, 3, 0, 0, 0]


def test_zero_is_a_value() -> None:
    assert Vocabulary(count([0, 0]).frequent(1)).encode(np.array([0, -1])).tolist() == [1, 0]


@given(values=st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=50))
def test_values_come_back_in_the_order_of_rows(values: list[int]) -> None:
    vocabulary = Vocabulary(np.array(values, np.int64))
    assert vocabulary.values.tolist() == values
    assert vocabulary.encode(vocabulary.values).tolist() == list(range(1, len(values) + 1))


def test_an_empty_vocabulary_has_the_row_of_unknown_values() -> None:
    vocabulary = Vocabulary(count([1, 2]).frequent(2))
    assert vocabulary.num_embeddings == 1
    assert vocabulary.encode(np.array([1, 2])).tolist() == [0, 0]


def test_refuses_a_minimum_count_of_zero() -> None:
    with pytest.raises(ConfigError, match="minimum count is 0"):
        require_min_count(0)


def test_hashing_is_stable() -> None:
    rows = HashedVocabulary(1000).encode(np.array([0, 1, 0x05DB9164, 0xFFFFFFFF, -1]))
    assert rows.tolist() == [1, 374, 207, 272, 0]


@given(values=st.lists(st.integers(-1, 2**32 - 1)), num_rows=st.integers(2, 100))
def test_hashed_rows_stay_in_the_table(values: list[int], num_rows: int) -> None:
    rows = HashedVocabulary(num_rows).encode(np.array(values, dtype=np.int64))
    assert all((row == 0) == (value < 0) and row < num_rows for row, value in zip(rows, values, strict=True))


def test_hashing_spreads() -> None:
    rows = HashedVocabulary(11).encode(np.arange(100_000))
    counts = np.bincount(rows, minlength=11)
    assert counts[0] == 0
    assert counts[1:].min() > 9_500


def test_refuses_tables_too_small_to_hash_into() -> None:
    with pytest.raises(ConfigError, match="limit of rows for hashing is 1, but must be from 2 to"):
        HashedVocabulary(1)
