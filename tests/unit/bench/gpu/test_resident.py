"""The model with all rows resident trains as plain PyTorch does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.bench.gpu.case import Cell, model_config
from bagpipe_hpc.bench.gpu.resident import ResidentModel
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import DeviceMemoryError
from bagpipe_hpc.trainer.device.cpu import CpuDevice

SCHEMA = Schema(dense=("x",), tables=(TableSchema(name="a", num_embeddings=5), TableSchema(name="b", num_embeddings=3)))
CONFIG = model_config(Cell(6, 4))


def batch() -> Batch:
    random = np.random.default_rng(0)
    ids = np.stack([random.integers(0, 5, 6), random.integers(0, 3, 6)], axis=1)
    return Batch(random.integers(0, 2, 6).astype(np.float32), random.random((6, 1), np.float32), ids, {})


def test_a_step_is_that_of_plain_pytorch() -> None:
    model, samples = ResidentModel(CONFIG, SCHEMA, CpuDevice()), batch()
    rows = model.cache.rows.clone().requires_grad_()
    dense = copy.deepcopy(model._model)
    vectors = functional.embedding(torch.from_numpy(samples.ids) + torch.tensor([0, 5]), rows)
    logits = dense(torch.from_numpy(samples.dense), vectors)
    functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(samples.labels)).backward()
    torch.optim.SGD([rows, *dense.parameters()], lr=0.1).step()
    model.train([model.place(samples)], 1)
    torch.testing.assert_close(model.cache.rows, rows.detach())
    for mine, theirs in zip(model._model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_rows_that_do_not_fit_are_refused_before_they_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "free_bytes", lambda self, trainers: 1_000)
    with pytest.raises(DeviceMemoryError, match="give a lower --scale, --dims or --batch-sizes"):
        ResidentModel(CONFIG, SCHEMA, CpuDevice())
