"""Plain single-process PyTorch training: nn.Embedding tables, torch.optim.SGD, a loop. Ours is only the model.

(And its initial rows and the data set, which are inputs.)
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.store.initial import RowInitializer
from bagpipe_hpc.training.models import build_model
from tests.integration.conftest import NUM_EMBEDDINGS


def plain_digest(
    dataset: Path, num_shares: int, epochs: int, batch_size: int, learning_rate: float, config: ModelConfig
) -> str:
    """The model digest after training; gradients are accumulated over num_shares contiguous parts of each batch."""
    torch.set_num_threads(1)
    labels, dense, ids = _read(dataset)
    tables = nn.ModuleList(_table(index, config) for index in range(len(NUM_EMBEDDINGS)))
    model = build_model(config, dense.shape[1], len(NUM_EMBEDDINGS), seed=0)
    optimizer = torch.optim.SGD([*model.parameters(), *tables.parameters()], lr=learning_rate)
    for _ in range(epochs):
        for start in range(0, len(labels), batch_size):
            batch = slice(start, min(start + batch_size, len(labels)))
            size = batch.stop - batch.start
            optimizer.zero_grad()
            for share in torch.arange(batch.start, batch.stop).tensor_split(num_shares):
                columns = [table(ids[share, index]) for index, table in enumerate(tables)]
                logits = model(dense[share], torch.stack(columns, dim=1))
                loss = functional.binary_cross_entropy_with_logits(logits, labels[share], reduction="sum") / size
                loss.backward()
            optimizer.step()
    return _digest(model, tables, ids)


def _read(dataset: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    columns: dict[str, list[np.ndarray]] = {"labels": [], "dense": [], "one_hot": []}
    for path in sorted((dataset / "train").iterdir()):
        with h5py.File(path) as shard:
            for name, pieces in columns.items():
                pieces.append(shard[name][:])
    labels, dense, ids = (torch.from_numpy(np.concatenate(pieces)) for pieces in columns.values())
    return labels, dense, ids.long()


def _table(index: int, config: ModelConfig) -> nn.Embedding:
    key_space = KeySpace(NUM_EMBEDDINGS)
    keys = np.arange(key_space.table_offsets[index], key_space.table_offsets[index + 1])
    rows = np.empty((len(keys), config.row_dim), dtype=np.float32)
    RowInitializer(key_space, config.embedding_columns, seed=0).fill(keys, rows)
    return nn.Embedding.from_pretrained(torch.from_numpy(rows), freeze=False)


def _digest(model: nn.Module, tables: nn.ModuleList, ids: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + b"\0" + parameter.detach().numpy().astype("<f4").tobytes())
    offset = 0
    for index, table in enumerate(tables):
        weight = table.weight.detach().numpy().astype("<f4")
        for row in np.unique(ids[:, index].numpy()):
            digest.update(int(offset + row).to_bytes(8, "little") + weight[row].tobytes())
        offset += NUM_EMBEDDINGS[index]
    return digest.hexdigest()
