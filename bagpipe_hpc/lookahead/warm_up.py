"""The compilation of the planner's functions before the first iteration."""

from __future__ import annotations

from typing import Any

import numpy as np

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.lookahead.locality import LocalityAssigner
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.codec import encode_plan
from bagpipe_hpc.sharding import KeySpace, share_boundaries

_MANY_IDS = 2**16 + 1  # of a share in a table: more than uint16 can count


def warm_up(num_keys: int, id_dtype: np.dtype[Any], max_dense_keys: int, largest_share: int | None) -> None:
    """Compile the functions that planning uses, or load what an earlier run compiled.

    Args:
        num_keys: Number of rows of all tables together.
        id_dtype: Type of the row ids of batches.
        max_dense_keys: As for the planner.
        largest_share: Number of ids of the largest share of a batch in one feature; None: any number.
    """
    dense = num_keys <= max_dense_keys
    num_embeddings = (8,) if dense else (num_keys,)  # types of keys and states as in the job, arrays as small as can be
    for num_samples in {4, 2 * min(largest_share or _MANY_IDS, _MANY_IDS)}:
        batch = Batch(
            np.zeros(num_samples, dtype=np.float32),
            np.zeros((num_samples, 1), dtype=np.float32),
            np.zeros((num_samples, 1), dtype=id_dtype),
        )
        sizes: dict[str, Any] = {
            "num_embeddings": num_embeddings, "num_trainers": 2, "num_servers": 1, "window": 1, "prefetch_depth": 1,
            "cache_rows": 8, "max_dense_keys": max_dense_keys if dense else 0,
        }  # fmt: skip
        planner, residents = Planner(**sizes), None
        for plan in planner.plans([batch, batch]):
            encode_plan(plan)
            if residents is None:  # between the two plans, when a row is resident
                residents = planner.residents()
        list(Planner(**sizes, residents=residents).plans([batch]))
        share_ends = np.asarray(share_boundaries(num_samples, 2), dtype=np.int64)
        LocalityAssigner(2, KeySpace((8,)).table_offsets, num_buckets=8).order(batch.ids, share_ends)
