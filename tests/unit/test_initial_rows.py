"""Initial rows: a function of seed, table and row id, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.sharding import KeySpace, Sharding

KEY_SPACE = KeySpace((3, 50, 2**33))
FIRST_KEYS = np.arange(60, dtype=np.int64)


def initial_rows(
    keys: NDArray[np.int64], *, dim: int = 4, width: int = 4, seed: int = 0, key_space: KeySpace = KEY_SPACE
) -> NDArray[np.float32]:
    rows = np.full((len(keys), width), np.nan, dtype=np.float32)
    RowInitializer(key_space, dim, seed).fill(keys, rows)
    return rows


def test_golden_values() -> None:
    """Changing these changes every model digest ever recorded."""
    keys = np.array([0, 2, 3, 52, 53, 53 + 2**33 - 1], dtype=np.int64)
    golden = [
        "19d1d3be60d7073f",
        "f58e8d3e42af033f",
        "74fc0f3ec6a2cfbb",
        "7906e1bc726760bd",
        "1999063748ae0437",
        "deb732b75a84b736",
    ]
    assert [row.tobytes().hex() for row in initial_rows(keys, dim=2, width=2, seed=7)] == golden


@given(st.permutations(range(60)), st.lists(st.integers(0, 60), max_size=5).map(sorted))
def test_order_and_grouping_do_not_matter(order: list[int], cuts: list[int]) -> None:
    keys = FIRST_KEYS[np.array(order)]
    rows = np.concatenate([initial_rows(piece) for piece in np.split(keys, cuts)])
    np.testing.assert_array_equal(rows, initial_rows(FIRST_KEYS)[keys])


@pytest.mark.parametrize("num_servers", [1, 2, 3, 7])
def test_the_number_of_servers_does_not_matter(num_servers: int) -> None:
    sharding = Sharding(len(FIRST_KEYS), num_servers)
    for server in range(num_servers):
        keys = sharding.keys_of(server, np.arange(sharding.num_local_rows(server)))
        np.testing.assert_array_equal(initial_rows(keys), initial_rows(FIRST_KEYS)[server::num_servers])


def test_optimizer_state_starts_as_zero_and_changes_nothing() -> None:
    rows = initial_rows(FIRST_KEYS, dim=4, width=7)
    np.testing.assert_array_equal(rows[:, 4:], 0)
    np.testing.assert_array_equal(rows[:, :4], initial_rows(FIRST_KEYS))


def test_optimizer_state_starts_where_it_is_told_to() -> None:
    rows = np.empty((60, 7), dtype=np.float32)
    tails = np.arange(3 * len(KEY_SPACE.num_embeddings), dtype=np.float32).reshape(-1, 3)
    RowInitializer(KEY_SPACE, 4, 0, tails).fill(FIRST_KEYS, rows)
    np.testing.assert_array_equal(rows[:, :4], initial_rows(FIRST_KEYS))
    tables = np.array([KEY_SPACE.locate(key)[0] for key in FIRST_KEYS.tolist()])
    np.testing.assert_array_equal(rows[:, 4:], tails[tables])


def test_a_narrower_table_has_the_first_columns() -> None:
    rows = np.full((60, 7), np.nan, dtype=np.float32)
    dims = [1 + table % 4 for table in range(len(KEY_SPACE.num_embeddings))]
    RowInitializer(KEY_SPACE, 4, 0, dims=dims).fill(FIRST_KEYS, rows)
    wide = initial_rows(FIRST_KEYS)
    for key, row in zip(FIRST_KEYS.tolist(), rows, strict=True):
        dim = dims[KEY_SPACE.locate(key)[0]]
        np.testing.assert_array_equal(row[:dim], wide[key, :dim])
        np.testing.assert_array_equal(row[dim:], 0)


def test_more_columns_keep_the_first_ones() -> None:
    np.testing.assert_array_equal(initial_rows(FIRST_KEYS, dim=9, width=9)[:, :4], initial_rows(FIRST_KEYS))


def test_seeds_tables_rows_and_columns_all_matter() -> None:
    same_size = KeySpace((20, 20))
    keys = np.arange(40, dtype=np.int64)
    values = np.concatenate([initial_rows(keys, seed=seed, key_space=same_size) for seed in (0, 1, 2**63 - 1)])
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize("size", [1, 2, 10_000])
def test_values_are_uniform_in_their_range(size: int) -> None:
    rows = initial_rows(np.arange(min(size, 1000)), dim=64, width=64, key_space=KeySpace((size,)))
    unit = rows.astype(np.float64).ravel() * np.sqrt(size)
    assert unit.min() >= -1 - 1e-6
    assert unit.max() < 1 + 1e-6
    if size > 2:  # 64,000 values: the largest gap between their distribution and the uniform one (Kolmogorov-Smirnov)
        gap = np.abs(np.sort(unit) - np.linspace(-1, 1, len(unit))).max() / 2
        assert gap < 1.95 / np.sqrt(len(unit))  # exceeded by chance once in a thousand seeds; the seed is fixed
        columns = unit.reshape(-1, 64)
        assert abs(np.corrcoef(columns[:, 0], columns[:, 1])[0, 1]) < 0.12
        assert abs(np.corrcoef(columns[:-1].ravel(), columns[1:].ravel())[0, 1]) < 0.02
