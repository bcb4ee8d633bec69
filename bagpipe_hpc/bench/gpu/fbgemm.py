"""FBGEMM's tables, which are those of TorchRec, with the same dense model: all rows on the device, in one process."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.trainer.build import build_trained_model
from bagpipe_hpc.trainer.device.base import Device

ABSENT = "FBGEMM (TorchRec) is not installed; pip install --no-deps fbgemm-gpu of the release that fits torch"


def why_absent() -> str:
    """Return why FBGEMM cannot be compared here; empty if it can."""
    return "" if importlib.util.find_spec("fbgemm_gpu") else ABSENT


class FbgemmModel:
    """The model of a configuration. Tables make their step of SGD in the backward pass.

    Args:
        config: The settings.
        schema: The schema of the samples, which have one id in each table.
        device: The device.
    """

    def __init__(self, config: Config, schema: Schema, device: Device) -> None:
        self._device, self._dim = device.torch_device, config.model.embedding_dim
        self._model = build_trained_model(config, schema, None, 0, device)
        self._tables = _tables(config, schema, self._device)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=config.dense_learning_rate)

    def place(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Bring a batch to the device: labels, dense features, ids table by table, and the offset of each bag."""
        ids = torch.from_numpy(batch.ids).t().contiguous().view(-1)
        arrays = (torch.from_numpy(batch.labels), torch.from_numpy(batch.dense), ids, torch.arange(len(ids) + 1))
        return tuple(array.to(self._device) for array in arrays)

    def train(self, batches: Sequence[tuple[torch.Tensor, ...]], iterations: int) -> None:
        """Train on batches in turn. On a GPU the host does not wait for the last ones."""
        for number in range(iterations):
            labels, dense, ids, offsets = batches[number % len(batches)]
            self._optimizer.zero_grad()
            vectors = self._tables(ids, offsets).view(len(labels), -1, self._dim)
            functional.binary_cross_entropy_with_logits(self._model(dense, vectors), labels).backward()
            self._optimizer.step()


def _tables(config: Config, schema: Schema, device: torch.device) -> Any:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    is_host = device.type == "cpu"
    location = EmbeddingLocation.HOST if is_host else EmbeddingLocation.DEVICE
    kind = ComputeDevice[device.type.upper()]
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, config.model.embedding_dim, location, kind) for rows in schema.num_embeddings],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=config.row_learning_rate,
        device=device,
    )
    tables.init_embedding_weights_uniform(-0.01, 0.01)
    return tables
