"""Plain single-process PyTorch training: nn.Embedding tables, torch.optim, a loop. Ours is only the model's dense part.

(And its initial rows and the data set, which are inputs.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.trainer.models import build_model
from tests.integration.conftest import NUM_EMBEDDINGS

ROW_OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, float], list[str]]] = {
    "sgd": (torch.optim.SGD, {}, []),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, ["momentum_buffer"]),
    "adagrad": (torch.optim.Adagrad, {}, ["sum"]),
    "adam": (torch.optim.SparseAdam, {}, ["exp_avg", "exp_avg_sq"]),
}  # by row_optimizer.name; the last are the names of its state, in a row's order


class PlainModel(nn.Module):
    """A model and its tables, called with dense features and ids."""

    def __init__(self, config: ModelConfig, num_embeddings: Sequence[int], num_dense: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(_table(table, config, num_embeddings) for table in range(len(num_embeddings)))
        self.dense = build_model(config, num_dense, len(num_embeddings), seed=0)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        columns = [table(ids[:, index]) for index, table in enumerate(self.tables)]
        logits: torch.Tensor = self.dense(dense, torch.stack(columns, dim=1))
        return logits


def read_split(dataset: Path, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, dense features and ids of all samples, in order."""
    columns: dict[str, list[np.ndarray]] = {"labels": [], "dense": [], "one_hot": []}
    for path in sorted((dataset / split).iterdir()):
        with h5py.File(path) as shard:
            for name, pieces in columns.items():
                pieces.append(shard[name][:])
    labels, dense, ids = (torch.from_numpy(np.concatenate(pieces)) for pieces in columns.values())
    return labels, dense, ids.long()


def plain_digest(
    dataset: Path,
    num_shares: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    config: ModelConfig,
    row_optimizer: str = "sgd",
    ends: Sequence[int] = (),
) -> str:
    """The model digest after training; gradients are accumulated over num_shares contiguous parts of each batch.

    No batch goes over one of the ends.
    """
    torch.set_num_threads(1)
    labels, dense, ids = read_split(dataset, "train")
    model = PlainModel(config, NUM_EMBEDDINGS, dense.shape[1])
    optimizer = torch.optim.SGD(model.dense.parameters(), lr=learning_rate)
    kind, arguments, state_names = ROW_OPTIMIZERS[row_optimizer]
    weights = [*model.tables.parameters()]
    table_optimizers = [kind([weight], lr=learning_rate, **arguments) for weight in weights]
    for _ in range(epochs):
        for batch in _batches([0, *(ends or [len(labels)])], batch_size):
            size = batch.stop - batch.start
            model.zero_grad()
            for share in torch.arange(batch.start, batch.stop).tensor_split(num_shares):
                logits = model(dense[share], ids[share])
                loss = functional.binary_cross_entropy_with_logits(logits, labels[share], reduction="sum") / size
                loss.backward()
            optimizer.step()
            for index, (weight, table_optimizer) in enumerate(zip(weights, table_optimizers, strict=True)):
                _step(weight, table_optimizer, ids[batch, index].unique())
    rows = [
        torch.cat([weight.detach(), *(each.state[weight][name] for name in state_names)], dim=1)
        for weight, each in zip(weights, table_optimizers, strict=True)
    ]
    return _digest(model.dense, rows, ids)


def _batches(borders: Sequence[int], batch_size: int) -> Iterator[slice]:
    for first, last in pairwise(borders):
        yield from (slice(start, min(start + batch_size, last)) for start in range(first, last, batch_size))


def _step(weight: torch.Tensor, optimizer: torch.optim.Optimizer, used: torch.Tensor) -> None:
    """One step; rows that were not used stay as they are, although PyTorch's momentum would move them."""
    assert weight.grad is not None
    if isinstance(optimizer, torch.optim.SparseAdam):
        weight.grad = torch.sparse_coo_tensor(used[None], weight.grad[used], weight.shape, check_invariants=True)
    unused = torch.ones(len(weight), dtype=torch.bool).index_fill(0, used, False)
    state = [each for each in optimizer.state[weight].values() if torch.is_tensor(each) and each.shape == weight.shape]
    parts = [weight.detach(), *state]
    before = [part[unused] for part in parts]
    optimizer.step()
    for part, rows in zip(parts, before, strict=True):
        part[unused] = rows


def _table(index: int, config: ModelConfig, num_embeddings: Sequence[int]) -> nn.Embedding:
    key_space = KeySpace(tuple(num_embeddings))
    keys = np.arange(key_space.table_offsets[index], key_space.table_offsets[index + 1])
    rows = np.empty((len(keys), config.row_dim), dtype=np.float32)
    RowInitializer(key_space, config.embedding_columns, seed=0).fill(keys, rows)
    return nn.Embedding(*rows.shape, _weight=torch.from_numpy(rows))


def _digest(model: nn.Module, tables: list[torch.Tensor], ids: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + b"\0" + parameter.detach().numpy().astype("<f4").tobytes())
    offset = 0
    for index, table in enumerate(tables):
        rows = table.numpy().astype("<f4")
        for row in np.unique(ids[:, index].numpy()):
            digest.update(int(offset + row).to_bytes(8, "little") + rows[row].tobytes())
        offset += NUM_EMBEDDINGS[index]
    return digest.hexdigest()
