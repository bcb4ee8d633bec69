"""How many rows fit on a device, and what a trainer says when something does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import DeviceMemoryError
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device_memory import SCORE_COPIES, MemoryNeed, most_rows, naming_memory, need_of
from tests.queued_device import QueuedDevice

GIB = 1 << 30
SCHEMA = Schema(dense=("age",), tables=(TableSchema(name="user", num_embeddings=50),))
NEED = MemoryNeed(dense=GIB, activations=2 * GIB, buffers=GIB // 2)


def config_of(**settings: dict[str, Any]) -> Config:
    return Config.model_validate({"model": {"embedding_dim": 64}, **settings})


class Cpu(CpuDevice):
    def free_bytes(self, trainers_on_host: int) -> int:
        return 8 * GIB // trainers_on_host


def no_need() -> MemoryNeed:
    raise AssertionError("not asked for")


def test_the_setting_decides() -> None:
    assert most_rows(config_of(cache={"rows": 77}), no_need, Cpu(), 2) == 77


def test_a_quarter_of_the_free_memory_on_the_cpu() -> None:
    assert most_rows(config_of(), no_need, Cpu(), 2) == GIB // 256


def test_what_remains_beside_the_need_on_a_gpu() -> None:
    device = QueuedDevice(limit=10 * GIB)
    assert most_rows(config_of(), lambda: NEED, device, 1) == (9 * GIB - NEED.total) // 256


def test_nothing_remains() -> None:
    device = QueuedDevice(limit=3 * GIB)
    with pytest.raises(DeviceMemoryError) as caught:
        most_rows(config_of(), lambda: NEED, device, 1)
    for words in ("queued has 3.00 GiB", "needs 3.50 GiB besides its cache", "activations 2.00 GiB", "cache.rows"):
        assert words in str(caught.value)


def test_the_need_grows_with_what_it_is_for() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))
    small = need_of(config_of(training={"batch_size": 100}), SCHEMA, model, 2)
    large = need_of(config_of(training={"batch_size": 1600}), SCHEMA, model, 2)
    assert small.dense == 4 * 4 * (10 * 20 + 20 + 20 + 1) == large.dense
    assert (large.activations, large.buffers) == (16 * small.activations, 16 * small.buffers)
    in_blocks = need_of(config_of(training={"batch_size": 1600, "blocks": 32, "threads": 1}), SCHEMA, model, 2)
    assert in_blocks.activations == small.activations
    assert in_blocks.buffers > large.buffers
    deep = need_of(config_of(training={"batch_size": 100}, lookahead={"prefetch_depth": 10}), SCHEMA, model, 2)
    assert deep.buffers > small.buffers


def test_two_towers_need_scores_of_all_pairs_of_samples() -> None:
    model, training = nn.Linear(10, 20), {"batch_size": 1600}
    plain = need_of(config_of(training=training), SCHEMA, model, 2)
    towers = need_of(config_of(training=training, model={"name": "two_tower", "embedding_dim": 64}), SCHEMA, model, 2)
    assert towers.activations - plain.activations == 4 * SCORE_COPIES * 800**2


def test_a_cache_that_is_too_large() -> None:
    device = QueuedDevice(limit=1000)
    with (
        pytest.raises(DeviceMemoryError, match=r"out of memory: a cache of 99 rows; torch says: .*; lower cache.rows"),
        naming_memory(lambda: "a cache of 99 rows"),
    ):
        RowCache(99, 64, device)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), naming_memory(lambda: ""):
        raise RuntimeError("shape")
    assert not issubclass(DeviceMemoryError, RuntimeError)
    assert issubclass(torch.OutOfMemoryError, RuntimeError)
