"""Orders of samples: all of them once, the same after any restart, another one in every epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import DatasetWriter, Split, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.data.shuffle import BlockShuffle, permutation, shuffled_batches

NUM_SAMPLES = 53


def order(shuffle: BlockShuffle, epoch: int, num_samples: int, start: int = 0) -> list[int]:
    return [position for run in shuffle.runs(epoch, num_samples, start) for position in run.tolist()]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 2**63 - 1), st.integers(0, 5), st.data())
def test_every_sample_once_from_any_start(size: int, block: int, seed: int, epoch: int, data: st.DataObject) -> None:
    shuffle = BlockShuffle(block, seed)
    whole = order(shuffle, epoch, size)
    assert sorted(whole) == list(range(size))
    start = data.draw(st.integers(0, size))
    assert order(shuffle, epoch, size, start) == whole[start:]
    for run in shuffle.runs(epoch, size):
        assert len({position // block for position in run.tolist()}) == 1


def test_epochs_and_seeds_differ() -> None:
    orders = [order(BlockShuffle(8, seed), epoch, 64) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(found) for found in orders}) == 4


def test_the_order_is_the_same_everywhere() -> None:
    """Figures to hold later versions against: checkpoints in the middle of an epoch depend on them."""
    assert permutation(8, seed=0, epoch=0, stream=0).tolist() == [3, 0, 1, 2, 6, 7, 5, 4]


def test_blocks_are_even() -> None:
    firsts = [permutation(4, seed, 0, 0)[0] for seed in range(4000)]
    assert np.bincount(firsts).min() > 900


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Sample s has label s, id s, and s % 3 ragged ids s."""
    path = tmp_path_factory.mktemp("shuffle") / "data"
    tables = (
        TableSchema(name="id", num_embeddings=100),
        TableSchema(name="list", num_embeddings=100, ragged=True),
    )
    numbers = np.arange(NUM_SAMPLES)
    counts = numbers % 3
    ragged = Bags(np.concatenate([[0], np.cumsum(counts)]), np.repeat(numbers, counts))
    batch = Batch(
        (numbers % 2).astype(np.float32), numbers[:, None].astype(np.float32), numbers[:, None], {"list": ragged}
    )
    with DatasetWriter(path, Schema(dense=("d",), tables=tables), samples_per_shard=10) as writer:
        writer.append("train", batch)
    return open_dataset(path).train


@pytest.mark.parametrize("start", [0, 1, 17, NUM_SAMPLES])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("block_size", [4, 25, 1000])
def test_batches_hold_the_samples_of_the_order(split: Split, block_size: int, batch_size: int, start: int) -> None:
    shuffle = BlockShuffle(block_size, seed=3)
    batches = list(shuffled_batches(split, shuffle, 1, batch_size, start))
    assert all(batch.num_samples == batch_size for batch in batches[:-1])
    found = [number for batch in batches for number in batch.ids[:, 0].tolist()]
    assert found == order(shuffle, 1, NUM_SAMPLES, start)
    for batch in batches:
        numbers = batch.ids[:, 0]
        np.testing.assert_array_equal(batch.labels, numbers % 2)
        np.testing.assert_array_equal(batch.dense[:, 0], numbers)
        np.testing.assert_array_equal(np.diff(batch.bags["list"].offsets), numbers % 3)
        np.testing.assert_array_equal(batch.bags["list"].ids, np.repeat(numbers, numbers % 3))
