"""What the kernels of every device keep, as a check (`trainer/device/base.py`, RowKernels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.config import Config, ScheduleConfig
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.trainer.device.base import (
    Device,
    DeviceArray,
    PlacedSamples,
    RowJob,
    RowKernels,
    SampleRows,
    UpdateLists,
)
from bagpipe_hpc.trainer.device.row_step import fusible_optimizer
from bagpipe_hpc.trainer.iteration_lists import GradientList
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.row_optimizer import RowSGD
from bagpipe_hpc.trainer.sample_blocks import BlockSamples
from bagpipe_hpc.trainer.wire import FLOAT32, Wire, WireDtype

Float32Array = NDArray[np.float32]

SCHEMA = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True, weighted=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="item", num_embeddings=9, shares="tags"),
    )
)
CONFIG = Config.model_validate(
    {"model": {"name": "wide_deep", "embedding_dim": 4}, "tables": {"tags": {"pooling": "mean"}}}
)


def random_lists(num_trainers: int, rank: int, dim: int, seed: int) -> tuple[UpdateLists, Float32Array, Float32Array]:
    """Lists of rows to update, own gradients and gradients that arrive. A trainer sends at most one for each row."""
    random = np.random.default_rng([num_trainers, rank, seed])
    num_updates, num_rows, num_own = 20, int(random.integers(1, 15)), 8
    positions = np.sort(random.permutation(num_updates)[:num_rows]).astype(np.int64)
    counts = random.integers(0, num_rows + 1, num_trainers)
    counts[rank] = 0
    index = np.concatenate([random.permutation(num_rows)[:count] for count in counts]).astype(np.int64)
    lists = UpdateLists(
        slots=random.permutation(40)[:num_rows].astype(np.int32),
        positions=positions,
        num_own=int(np.searchsorted(positions, num_own)),
        index=index,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rank=rank,
    )
    own = random.normal(size=(num_own, dim)).astype(np.float32)
    return lists, own, random.normal(size=(len(index), dim)).astype(np.float32)


def check_kernels(
    kernels: RowKernels, up: Callable[[Any], DeviceArray], down: Callable[[DeviceArray], NDArray[Any]]
) -> None:
    """Copy and overwrite rows.

    Args:
        kernels: The kernels.
        up: Brings an array to the device.
        down: Brings it back.
    """
    rows = np.arange(30, dtype=np.float32).reshape(6, 5)
    slots, places = np.array([5, 0, 3], np.int32), np.array([2, 3, 0], np.int64)

    out = up(np.full((3, 4), -1, np.float32))
    kernels.copy_rows(up(rows.copy()), up(slots), out)
    np.testing.assert_array_equal(down(out), rows[slots, :4])

    out = up(np.full((4, 5), -1, np.float32))
    kernels.copy_rows_to(up(rows.copy()), up(slots), out, up(places))
    np.testing.assert_array_equal(down(out), [rows[3], [-1] * 5, rows[5], rows[0]])

    changed = up(rows.copy())
    kernels.write_rows(changed, up(slots), up(-rows[:3]))
    expected = rows.copy()
    expected[slots] = -rows[:3]
    np.testing.assert_array_equal(down(changed), expected)


def pooled(device: Device) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return vectors of samples whose rows are in the cache or replicas, and the gradients of the rows."""
    random, num_samples, num_own, num_rows = np.random.default_rng(0), 12, 5, 9
    lengths = random.integers(0, 4, (1, num_samples))
    num_ids = int(lengths.sum())
    samples = BlockSamples(
        np.zeros(num_samples, np.float32),
        np.zeros((num_samples, 0), np.float32),
        random.integers(0, num_rows, num_ids + 2 * num_samples).astype(np.int32),
        lengths,
        random.random(num_ids, np.float32),
    )
    cache = random.normal(size=(20, 7)).astype(np.float32)
    packed = random.normal(size=(num_rows, CONFIG.model.row_dim)).astype(np.float32)
    direction = random.normal(size=(num_samples, 3, CONFIG.model.row_dim)).astype(np.float32)
    kernels, pooling = device.kernels, Pooling(SCHEMA, CONFIG, device)
    job = RowJob(pooling.features.layout, RowSGD(LearningRate(0.1, ScheduleConfig())), 0, in_tree=False)
    slots = random.permutation(20)[:num_own].astype(np.int32)
    rows = SampleRows(device.put(cache), device.put(slots), device.put(packed.copy()), FLOAT32)
    placed = PlacedSamples(
        labels=device.as_tensor(device.put(samples.labels)),
        dense=device.as_tensor(device.put(samples.dense)),
        sample_rows=device.as_tensor(device.put(samples.sample_rows)),
        bag_lengths=device.as_tensor(device.put(samples.bag_lengths)),
        weights=device.as_tensor(device.put(samples.weights)),
        num_ids=[num_ids],
        own_arrays=[device.put(array) for array in kernels.arrays_of_samples(job, samples, num_rows)],
    )
    kernels.gather(rows)
    leaf = kernels.leaf(rows).detach().requires_grad_()
    vectors = kernels.pool(pooling, placed, rows, leaf)
    (vectors * device.as_tensor(device.put(direction))).sum().backward()
    assert leaf.grad is not None
    return device.get(vectors), device.get(leaf.grad)


def updated(
    device: Device, optimizer: dict[str, Any], *, in_tree: bool, wire_name: WireDtype = "float32"
) -> NDArray[Any]:
    """Return rows of the cache after an update: trainer 1 of 4, with own gradients and gradients that arrive."""
    config = Config.model_validate(
        {"model": {"name": "dcn", "embedding_dim": 5}, "row_optimizer": {"learning_rate": 0.1, **optimizer}}
    )
    lists, own, arrived = random_lists(4, 1, 5, seed=7)
    updates = GradientList(
        lists.positions, lists.slots, lists.num_own, lists.index, np.diff(lists.starts), lists.starts
    )  # fmt: skip
    of_job = fusible_optimizer(config, SCHEMA, waits=device.shares_memory)
    job = RowJob(Pooling(SCHEMA, CONFIG, device).features.layout, of_job, lists.rank, in_tree)
    placed = UpdateLists(
        device.put(lists.slots), device.put(lists.positions), lists.num_own, device.put(lists.index), lists.starts,
        lists.rank, [device.put(array) for array in device.kernels.arrays_of_updates(job, updates, 3)],
    )  # fmt: skip
    rows = device.put(np.random.default_rng(0).random((40, row_width(config)), np.float32))
    wire = Wire(wire_name)
    packed = device.put(wire.pack(torch.from_numpy(arrived), 64.0).numpy())
    device.kernels.update(
        rows, placed, device.put(own), packed, of_job, 3, in_tree=in_tree, wire=wire, scale=64.0
    )  # fmt: skip
    return device.get(device.as_tensor(rows))
