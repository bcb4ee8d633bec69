"""The ordered sum, over trainers that are threads. MPI's is tested in tests/parallel/test_dense_sum.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bagpipe_hpc.transport.memory_comm import MemoryComm
from bagpipe_hpc.transport.mpi_sum import MpiSum
from tests.dense_sum import NUM_ROUNDS, SIZES, check_sums


@pytest.mark.parametrize("num_trainers", [2, 3, 4, 5])
def test_sums_of_threads_are_those_of_the_tree(num_trainers: int) -> None:
    def play(comm: Any) -> int:
        return check_sums(MpiSum(comm), comm.rank, comm.size, in_tree_order=True)

    with ThreadPoolExecutor(num_trainers) as pool:
        found = list(pool.map(play, MemoryComm.world(num_trainers), timeout=60))
    assert found == [NUM_ROUNDS * len(SIZES)] * num_trainers
