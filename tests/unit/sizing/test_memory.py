from __future__ import annotations

from dataclasses import replace

from bagpipe_hpc.sizing.memory import ORACLE_BYTES, SERVER_BYTES, TRAINER_BYTES, Sizes, memory_of

from .test_iteration_cost import workload

SIZES = Sizes(num_keys=1001, ids_per_sample=3.0, num_dense=2, row_bytes=100, trainer_need=77)


def test_memory_of_each_role() -> None:
    found = memory_of(workload(), SIZES, cache_rows=50)
    # 8 + 2 + 3 iterations of 11 entries and 11 pairs, 8 samples with 3 ids, a label and 2 dense features.
    window = 13 * (28 * 11 + 8 * 11 + 8 * (2 * 3 + 4 * 3))
    assert found.oracle == ORACLE_BYTES + 8 * 1001 + window + 4 * 703
    assert found.server == SERVER_BYTES + 100 * (501 + 5 * 2 * 1024)
    assert (found.trainer, found.cache_rows) == (TRAINER_BYTES + 100 * 50 + 77, 50)


def test_many_keys_have_states_for_those_of_the_window_only() -> None:
    many = memory_of(workload(), replace(SIZES, num_keys=2**40), cache_rows=50)
    few = memory_of(workload(), SIZES, cache_rows=50)
    assert many.oracle - few.oracle == 32 * 13 * 11 - 8 * 1001
