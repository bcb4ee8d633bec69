"""Shuffling of the samples anew in each epoch: the order of blocks, and the order of samples within each block.

The order is a counter-based function of seed and epoch, so reading can begin anywhere, on any machine, after any
restart. Reading stays sequential within a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.data.dataset import Split
from bagpipe_hpc.splitmix import mix

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class BlockShuffle:
    """An order of samples.

    Args:
        block_size: Number of consecutive samples that stay together; the last block of the split may be shorter.
        seed: The job's seed.
    """

    block_size: int
    seed: int

    def runs(self, epoch: int, num_samples: int, start: int = 0) -> Iterator[Int64Array]:
        """Yield the positions in the split, int64 (n,), block by block, from position `start` of this order on."""
        num_blocks = -(-num_samples // self.block_size)
        for block in permutation(num_blocks, self.seed, epoch, 0).tolist():
            first = block * self.block_size
            size = min(self.block_size, num_samples - first)
            if start < size:
                yield first + permutation(size, self.seed, epoch, 1 + block)[start:]
            start = max(0, start - size)


def permutation(size: int, seed: int, epoch: int, stream: int) -> Int64Array:
    """Return a permutation of 0 .. size - 1 that depends on seed, epoch and stream; int64 (size,)."""
    return np.argsort(_bits(size, np.uint64(seed), np.uint64(epoch), np.uint64(stream)), kind="stable")


@compiled
def _bits(size: int, seed: np.uint64, epoch: np.uint64, stream: np.uint64) -> NDArray[np.uint64]:
    weyl = np.uint64(0x9E3779B97F4A7C15)
    state = mix(mix(mix(seed + weyl) + epoch * weyl) + stream * weyl)
    bits = np.empty(size, dtype=np.uint64)
    for number in range(size):
        bits[number] = mix(state + np.uint64(number + 1) * weyl)
    return bits


def shuffled_batches(
    split: Split, shuffle: BlockShuffle, epoch: int, batch_size: int, start_sample: int = 0
) -> Iterator[Batch]:
    """Yield batches as `Split.batches`, but shuffled; `start_sample` counts in this order. One block is in memory."""
    return _of_size(_blocks(split, shuffle, epoch, start_sample), batch_size)


def _blocks(split: Split, shuffle: BlockShuffle, epoch: int, start_sample: int) -> Iterator[Batch]:
    for positions in shuffle.runs(epoch, split.num_samples, start_sample):
        first = positions[0] // shuffle.block_size * shuffle.block_size
        block = split.read(first, min(first + shuffle.block_size, split.num_samples))
        yield block.take(positions - first)


def _of_size(pieces: Iterable[Batch], batch_size: int) -> Iterator[Batch]:
    """Yield the same samples in batches of this size; the last may be short."""
    waiting: list[Batch] = []
    missing = batch_size
    for piece in pieces:
        start = 0
        while start < piece.num_samples:
            stop = min(start + missing, piece.num_samples)
            waiting.append(piece.slice(start, stop))
            missing -= stop - start
            start = stop
            if not missing:
                yield Batch.concatenate(waiting)
                waiting, missing = [], batch_size
    if waiting:
        yield Batch.concatenate(waiting)
