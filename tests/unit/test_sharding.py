"""Keys, servers, local rows, shares."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.sharding import KeySpace, Sharding, share_boundaries

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=8).map(tuple)


@given(SIZES)
def test_locate_inverts_the_offsets(num_embeddings: tuple[int, ...]) -> None:
    key_space = KeySpace(num_embeddings)
    every = [(table, row) for table, size in enumerate(num_embeddings) for row in range(size)]
    assert [key_space.locate(key) for key in range(key_space.num_keys)] == every
    assert [int(key_space.table_offsets[table]) + row for table, row in every] == list(range(key_space.num_keys))


def test_offsets_do_not_overflow_32_bits() -> None:
    key_space = KeySpace((2**31, 2**31, 7))
    assert key_space.table_offsets.tolist() == [0, 2**31, 2**32, 2**32 + 7]
    assert key_space.table_offsets.dtype == np.int64
    assert key_space.locate(2**32 + 3) == (2, 3)


@given(st.integers(0, 200), st.integers(1, 9))
def test_every_key_has_one_place(num_keys: int, num_servers: int) -> None:
    sharding = Sharding(num_keys, num_servers)
    keys = np.arange(num_keys, dtype=np.int64)
    servers, local_rows = sharding.server_of(keys), sharding.local_row_of(keys)
    for server in range(num_servers):
        mine = servers == server
        # Dense and ascending: local rows are 0, 1, ... in key order.
        assert local_rows[mine].tolist() == list(range(sharding.num_local_rows(server)))
        assert sharding.keys_of(server, local_rows[mine]).tolist() == keys[mine].tolist()


@given(st.integers(0, 200), st.integers(1, 9))
def test_shards_differ_by_at_most_one_row(num_keys: int, num_servers: int) -> None:
    sizes = [Sharding(num_keys, num_servers).num_local_rows(server) for server in range(num_servers)]
    assert sum(sizes) == num_keys
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 1000), st.integers(1, 40))
def test_shares_are_contiguous_and_even(num_samples: int, num_trainers: int) -> None:
    boundaries = share_boundaries(num_samples, num_trainers)
    sizes = np.diff(boundaries)
    assert (len(sizes), boundaries[0], boundaries[-1]) == (num_trainers, 0, num_samples)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 0


@given(st.integers(0, 1000), st.integers(0, 4), st.integers(0, 4))
def test_shares_hold_whole_blocks(num_samples: int, log_trainers: int, log_each: int) -> None:
    num_trainers, each = 1 << log_trainers, 1 << log_each
    blocks = share_boundaries(num_samples, num_trainers * each)
    assert share_boundaries(num_samples, num_trainers, num_trainers * each) == list(blocks)[::each]
