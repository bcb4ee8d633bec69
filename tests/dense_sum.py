"""What every sum of dense gradients keeps, as a check that each trainer plays (`trainer/dense_sum.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.dense_sum import DenseSum

SIZES = (1, 2, 3, 100, 6_000, 30_001, 300_007)
NUM_ROUNDS = 4


def contribution(trainer: int, bucket: int, round_index: int) -> NDArray[np.float32]:
    """What a trainer gives; sums of such numbers depend on their order."""
    random = np.random.default_rng([trainer, bucket, round_index])
    values = random.standard_normal(SIZES[bucket]) * 10.0 ** random.integers(-3, 4, SIZES[bucket])
    return values.astype(np.float32)


def tree_sum(contributions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The plain tree: neighbours are added, and an odd one passes up."""
    if len(contributions) == 1:
        return contributions[0]
    pairs = [contributions[i : i + 2] for i in range(0, len(contributions), 2)]
    return tree_sum([pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs])


def check_sums(dense_sum: DenseSum, rank: int, size: int, *, in_tree_order: bool) -> int:
    """Sum several times, in another order of starts at every trainer and in every round; return the number of sums."""
    buffers = [torch.zeros(num_elements) for num_elements in SIZES]
    buckets = [dense_sum.bucket(buffer) for buffer in buffers]
    num_sums = 0
    for round_index in range(NUM_ROUNDS):
        order = np.random.default_rng([rank, round_index]).permutation(len(SIZES))
        late = set(order[:2]) if round_index % 2 else set()  # started by finish's caller, one by one
        for bucket, buffer in enumerate(buffers):
            buffer.copy_(torch.from_numpy(contribution(rank, bucket, round_index)))
        for bucket in order:
            if bucket not in late:
                buckets[bucket].start()
        for bucket, buffer in enumerate(buffers):
            if bucket in late:
                buckets[bucket].start()
            buckets[bucket].finish()
            expected = tree_sum([contribution(trainer, bucket, round_index) for trainer in range(size)])
            if in_tree_order:
                np.testing.assert_array_equal(buffer.numpy(), expected, f"bucket {bucket} in round {round_index}")
            else:
                np.testing.assert_allclose(buffer.numpy(), expected, rtol=1e-3, atol=1e-3)
            num_sums += 1
    dense_sum.free()
    return num_sums
