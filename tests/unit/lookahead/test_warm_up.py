"""Nothing is compiled once planning has begun."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.lookahead import features, lists, locality, next_use, residency
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.lookahead.warm_up import warm_up
from bagpipe_hpc.protocol.codec import encode_plan

MODULES = (features, next_use, residency, lists, locality)


def num_compiled() -> dict[str, int]:
    return {
        f"{module.__name__}.{name}": len(function.signatures)
        for module in MODULES
        for name, function in vars(module).items()
        if isinstance(function, CPUDispatcher)
    }


@pytest.mark.parametrize("id_dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("num_keys", "max_dense_keys"), [(100, 100), (100, 0), (2**33, 0)])
@pytest.mark.parametrize("num_tables", [1, 2])
def test_planning_compiles_nothing(
    id_dtype: type[np.integer], num_keys: int, max_dense_keys: int, num_tables: int
) -> None:
    warm_up(num_keys, np.dtype(id_dtype), max_dense_keys, largest_share=20)
    before = num_compiled()
    planner = Planner(
        num_embeddings=(num_keys // num_tables,) * num_tables, num_trainers=3, num_servers=2, window=3,
        prefetch_depth=1, cache_rows=60, max_dense_keys=max_dense_keys,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batches = [
        Batch(np.zeros(40, np.float32), np.zeros((40, 2), np.float32), ids.astype(id_dtype))
        for ids in rng.integers(0, 100 // num_tables, (9, 40, num_tables))
    ]
    for plan in planner.plans(batches):
        encode_plan(plan)
    assert num_compiled() == before
    assert before["bagpipe_hpc.lookahead.next_use._enter"] >= 1


@pytest.mark.parametrize("largest_share", [10**6, None])
def test_large_shares_are_warmed_up_too(largest_share: int | None) -> None:
    warm_up(8, np.dtype(np.int32), 8, largest_share=largest_share)
    before = num_compiled()
    num_samples = 2**16 + 1
    ids = np.zeros((num_samples, 1), dtype=np.int32)
    batch = Batch(np.zeros(num_samples, np.float32), np.zeros((num_samples, 0), np.float32), ids)
    planner = Planner(num_embeddings=(8,), num_trainers=1, num_servers=1, window=0, prefetch_depth=0, cache_rows=8)
    (plan,) = planner.plans([batch])
    encode_plan(plan)
    assert num_compiled() == before
