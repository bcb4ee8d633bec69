"""One server's rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.sharding import KeySpace, Sharding

KEY_SPACE = KeySpace((40, 61))
SHARDING = Sharding(KEY_SPACE.num_keys, num_servers=3)
SERVER, DIM, WIDTH = 1, 3, 5
INITIALIZER = RowInitializer(KEY_SPACE, DIM, seed=4)


@pytest.fixture
def store() -> RowStore:
    rows = np.full((SHARDING.num_local_rows(SERVER), WIDTH), np.nan, dtype=np.float32)
    return RowStore(SHARDING, SERVER, INITIALIZER, rows)


def initial(local_rows: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = np.empty((len(local_rows), WIDTH), dtype=np.float32)
    INITIALIZER.fill(SHARDING.keys_of(SERVER, local_rows), rows)
    return rows


def gather(store: RowStore, local_rows: NDArray[np.int64]) -> NDArray[np.float32]:
    out = np.empty((len(local_rows), WIDTH), dtype=np.float32)
    store.gather(local_rows, out)
    return out


def values(num_rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(num_rows).random((num_rows, WIDTH)).astype(np.float32)


def test_rows_never_touched_are_the_initial_ones(store: RowStore) -> None:
    wanted = np.array([32, 0, 7])
    np.testing.assert_array_equal(gather(store, wanted), initial(wanted))
    np.testing.assert_array_equal(gather(store, wanted[::-1]), initial(wanted[::-1]))
    assert store.num_touched() == 0


def test_only_rows_asked_for_are_made(store: RowStore) -> None:
    gather(store, np.array([5]))
    assert np.flatnonzero(~np.isnan(store.rows[:, 0])).tolist() == [5]


def test_what_is_scattered_is_gathered(store: RowStore) -> None:
    gather(store, np.array([3, 9]))  # of the rows written below, one exists already
    store.scatter(np.array([9, 1]), values(2))
    np.testing.assert_array_equal(gather(store, np.array([1, 9])), values(2)[::-1])
    np.testing.assert_array_equal(gather(store, np.array([3, 4])), initial(np.array([3, 4])))


def test_the_last_write_counts(store: RowStore) -> None:
    store.scatter(np.array([2, 3]), values(2))
    store.scatter(np.array([3]), values(1))
    np.testing.assert_array_equal(gather(store, np.array([2, 3])), [values(2)[0], values(1)[0]])
    assert store.num_touched() == 2


def test_touched_rows_come_in_pieces_as_keys(store: RowStore) -> None:
    local_rows = np.array([20, 4, 11, 5])
    gather(store, np.array([6, 11]))
    store.scatter(local_rows, values(4))
    assert store.num_touched() == 4
    pieces = [store.touched(first, 6) for first in range(0, len(store.rows), 6)]
    keys = np.concatenate([keys for keys, _ in pieces])
    assert keys.tolist() == SHARDING.keys_of(SERVER, np.sort(local_rows)).tolist()
    assert [len(keys) for keys, _ in pieces] == [2, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in pieces]), values(4)[np.argsort(local_rows)])


def test_rows_written_by_others_can_be_marked(store: RowStore) -> None:
    gather(store, np.array([8]))
    store.rows[8] = 1
    store.mark_touched(np.array([8]))
    assert store.touched(0, len(store.rows))[0].tolist() == [8 * 3 + 1]
    np.testing.assert_array_equal(gather(store, np.array([8])), np.ones((1, WIDTH)))


def test_nothing_is_a_valid_request(store: RowStore) -> None:
    none = np.empty(0, dtype=np.int64)
    assert gather(store, none).shape == (0, WIDTH)
    store.scatter(none, np.empty((0, WIDTH), dtype=np.float32))
    assert store.num_touched() == 0


def test_gathers_go_into_a_part_of_a_stage(store: RowStore) -> None:
    stage = np.zeros((6, WIDTH), dtype=np.float32)
    store.gather(np.array([1, 0]), stage[2:4])
    np.testing.assert_array_equal(stage[2:4], initial(np.array([1, 0])))
    assert not stage[[0, 1, 4, 5]].any()


def snapshot_of(store: RowStore, *, is_full: bool) -> dict[int, float]:
    """First column by key."""
    snapshot = store.take_snapshot(is_full=is_full)
    snapshot.find_rows()
    found = {
        int(key): float(row[0])
        for local_rows, rows in snapshot.pieces(2)
        for key, row in zip(SHARDING.keys_of(SERVER, local_rows), rows, strict=True)
    }
    store.drop_snapshot()
    return found


def test_an_increment_has_the_rows_since_the_last_snapshot(store: RowStore) -> None:
    store.scatter(np.array([1, 2]), values(2))
    assert snapshot_of(store, is_full=False).keys() == set(SHARDING.keys_of(SERVER, np.array([1, 2])).tolist())
    gather(store, np.array([3]))
    assert snapshot_of(store, is_full=False) == {}
    store.scatter(np.array([2, 5]), values(2))
    assert list(snapshot_of(store, is_full=False)) == SHARDING.keys_of(SERVER, np.array([2, 5])).tolist()
    assert list(snapshot_of(store, is_full=True)) == SHARDING.keys_of(SERVER, np.array([1, 2, 5])).tolist()


def test_restored_rows_are_touched_but_not_changed(store: RowStore) -> None:
    keys = SHARDING.keys_of(SERVER, np.array([7, 4]))
    store.restore(keys, values(2))
    np.testing.assert_array_equal(gather(store, np.array([7, 4])), values(2))
    assert store.num_touched() == 2
    assert snapshot_of(store, is_full=False) == {}
    assert snapshot_of(store, is_full=True).keys() == set(keys.tolist())


def test_a_server_may_have_no_rows() -> None:
    """Where there are more servers than rows."""
    key_space = KeySpace((2,))
    sharding = Sharding(key_space.num_keys, 3)
    rows = np.zeros((sharding.num_local_rows(2), 4), dtype=np.float32)
    store = RowStore(sharding, 2, RowInitializer(key_space, 4, seed=1), rows)
    nothing = np.empty(0, dtype=np.int64)
    store.gather(nothing, np.empty((0, 4), dtype=np.float32))
    store.scatter(nothing, np.empty((0, 4), dtype=np.float32))
    assert (len(rows), store.num_touched()) == (0, 0)
