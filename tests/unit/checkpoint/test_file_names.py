"""Names, and which files a server needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.checkpoint.file_names import (
    checkpoint_name,
    files_of,
    generation_name,
    generation_of_marker,
    generation_of_partial,
    iteration_of,
    partial_name,
    servers_to_read,
)

COUNTS = st.integers(1, 12)


@given(server=st.integers(0, 11), num_servers=COUNTS, num_saved_servers=COUNTS)
def test_a_server_reads_exactly_the_shards_it_shares_a_key_with(
    server: int, num_servers: int, num_saved_servers: int
) -> None:
    server %= num_servers
    shared = {key % num_saved_servers for key in range(12 * 12 * 12) if key % num_servers == server}
    assert servers_to_read(server, num_servers, num_saved_servers) == sorted(shared)


def test_the_same_number_of_servers_reads_one_shard_each() -> None:
    assert [servers_to_read(server, 4, 4) for server in range(4)] == [[0], [1], [2], [3]]


@given(iteration=st.integers(0, 10**12 - 1), generation=st.integers(0, 10**12 - 1))
def test_names_round_trip(iteration: int, generation: int) -> None:
    assert iteration_of(checkpoint_name(iteration)) == iteration
    assert generation_of_partial(partial_name(generation, iteration)) == generation
    assert generation_of_marker(generation_name(generation)) == generation


def test_foreign_names_are_no_checkpoints() -> None:
    names = ["latest", "iteration-12", "iteration-000000000012.old", ".partial-1-2", partial_name(1, 2)]
    assert [iteration_of(name) for name in names] == [None] * 5


def test_files_of_a_topology() -> None:
    assert files_of(2, 1) == ["server-00000.h5", "server-00001.h5", "trainer-00000.h5", "dense.h5"]
