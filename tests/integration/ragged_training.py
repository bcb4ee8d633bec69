"""A small data set of bags, and plain single-process PyTorch training on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.trainer.models import build_model

SCHEMA = Schema(
    dense=("d0", "d1"),
    tables=(
        TableSchema(name="history", num_embeddings=900, ragged=True, shares="item"),
        TableSchema(name="user", num_embeddings=50),
        TableSchema(name="item", num_embeddings=900),
        TableSchema(name="tags", num_embeddings=400, ragged=True, weighted=True),
        TableSchema(name="next", num_embeddings=900, shares="item"),
    ),
)
MEAN = "tags"  # the feature whose mean is taken
NUM_SAMPLES = 500
Bag = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, bool], torch.Tensor]


def make_ragged_dataset(path: Path) -> Path:
    """Bags of 0 to 5 skewed ids; two features count in another's table; labels depend on the bags."""
    random = np.random.default_rng(1)
    with DatasetWriter(path, SCHEMA, samples_per_shard=180) as writer:
        for split in ("train", "validation"):
            writer.append(split, _batch(random))
    return path


def _batch(random: np.random.Generator) -> Batch:
    ids = np.stack([_ids(random, NUM_SAMPLES, table.num_embeddings) for table in SCHEMA.one_hot_tables], axis=1)
    ragged = {table.name: _bags(random, table) for table in SCHEMA.ragged_tables}
    dense = random.normal(size=(NUM_SAMPLES, 2)).astype(np.float32)
    labels = (np.diff(ragged["history"].offsets) + dense[:, 0] + ids[:, 1] % 2 > 3).astype(np.float32)
    return Batch(labels, dense, ids, ragged)


def _bags(random: np.random.Generator, table: TableSchema) -> Bags:
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, 6, NUM_SAMPLES))]).astype(np.int64)
    weights = random.random(offsets[-1]).astype(np.float32) if table.weighted else None
    return Bags(offsets, _ids(random, int(offsets[-1]), table.num_embeddings), weights)


def _ids(random: np.random.Generator, count: int, num_embeddings: int) -> np.ndarray:
    return (random.random(count) ** 3 * num_embeddings).astype(np.int64)


@dataclass(frozen=True)
class PlainModel:
    """What plain training ends with."""

    model: nn.Module
    tables: Sequence[torch.Tensor]
    used: Sequence[np.ndarray]  # rows of each table, ascending
    row_dim: int
    has_numbers: bool  # of tables, as last column of rows

    def digest(self) -> str:
        """The model digest."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(name.encode() + b"\0" + parameter.detach().numpy().astype("<f4").tobytes())
        offset = 0
        for number, (table, used) in enumerate(zip(self.tables, self.used, strict=True)):
            rows = _padded(table, self.row_dim)
            if self.has_numbers:
                rows = functional.pad(rows, (0, 1), value=number)
            for row in used:
                digest.update(int(offset + row).to_bytes(8, "little") + rows[row].numpy().astype("<f4").tobytes())
            offset += len(table)
        return digest.hexdigest()


def train_plainly(
    dataset: Path,
    num_shares: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    config: ModelConfig,
    bag: Bag,
    rates: Mapping[str, float] = MappingProxyType({}),
    dims: Mapping[str, int] = MappingProxyType({}),
) -> PlainModel:
    """SGD; gradients are accumulated over num_shares contiguous parts of each batch.

    Args:
        bag: From rows of a feature's ids, lengths of its bags, weights and whether to take the mean, to vectors.
        rates: Of tables with one of their own.
        dims: Columns of tables that are narrower.
    """
    torch.set_num_threads(1)
    train = open_dataset(dataset).train
    weights = [
        _table(index, config)[:, : dims.get(table.name)].clone().requires_grad_()
        for index, table in enumerate(SCHEMA.own_tables)
    ]
    widths = [dims.get(table.table_name, config.embedding_dim) for table in SCHEMA.tables]
    model = build_model(config, SCHEMA.num_dense, SCHEMA.num_tables, 0, widths)
    groups: list[dict[str, Any]] = [
        {"params": [weight], "lr": rates.get(table.name, learning_rate)}
        for table, weight in zip(SCHEMA.own_tables, weights, strict=True)
    ]
    optimizer = torch.optim.SGD([{"params": list(model.parameters())}, *groups], lr=learning_rate)
    for _ in range(epochs):
        for batch in train.batches(batch_size):
            optimizer.zero_grad(set_to_none=False)
            for share in np.array_split(np.arange(batch.num_samples), num_shares):
                mine = batch.slice(share[0], share[-1] + 1) if len(share) else batch.slice(0, 0)
                logits = model(torch.from_numpy(mine.dense), embed(mine, weights, bag, config.row_dim))
                labels = torch.from_numpy(mine.labels)
                loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
                (loss / batch.num_samples).backward()
            optimizer.step()
    everything = train.read(0, NUM_SAMPLES)
    used = [np.unique(np.concatenate([ids for ids, *_ in _features(everything, table)])) for table in range(3)]
    return PlainModel(model, [weight.detach() for weight in weights], used, config.row_dim, bool(rates))


def embed(batch: Batch, weights: Sequence[torch.Tensor], bag: Bag, dim: int) -> torch.Tensor:
    """Vectors (num_samples, num_features, dim), filled up with zeros: one look-up per table, for all its features."""
    vectors = {}
    for table, weight in enumerate(weights):
        features = _features(batch, table)
        rows = functional.embedding(torch.from_numpy(np.concatenate([ids for ids, *_ in features])), weight)
        for part, (_, name, bags) in zip(rows.split([len(f[0]) for f in features]), features, strict=True):
            vectors[name] = part
            if bags is not None:
                bag_weights = None if bags.weights is None else torch.from_numpy(bags.weights)
                vectors[name] = bag(part, torch.from_numpy(np.diff(bags.offsets)), bag_weights, name == MEAN)
    return torch.stack([_padded(vectors[table.name], dim) for table in SCHEMA.tables], dim=1)


def _padded(rows: torch.Tensor, dim: int) -> torch.Tensor:
    return functional.pad(rows, (0, dim - rows.shape[1]))


def _features(batch: Batch, table: int) -> list[tuple[np.ndarray, str, Bags | None]]:
    """Ids, name and bags of the features that count in a table, in the order of the schema."""
    found = []
    columns = dict(zip([each.name for each in SCHEMA.one_hot_tables], batch.ids.T, strict=True))
    for place, each in enumerate(SCHEMA.tables):
        if SCHEMA.features.tables[place] == table:
            bags = batch.bags.get(each.name)
            ids = columns[each.name].astype(np.int64) if bags is None else bags.ids
            found.append((ids, each.name, bags))
    return found


def bag_by_loops(
    rows: torch.Tensor, lengths: torch.Tensor, weights: torch.Tensor | None, is_mean: bool
) -> torch.Tensor:
    """Every bag one row after the other."""
    remaining = iter(zip(rows.unbind(0), torch.ones(len(rows)) if weights is None else weights, strict=True))
    vectors = [torch.zeros(0, rows.shape[1])]
    for length in lengths.tolist():
        total, divisor = torch.zeros(rows.shape[1]), torch.zeros(())
        for _ in range(length):
            row, weight = next(remaining)
            total = total + (row if weights is None else row * weight)
            divisor = divisor + weight
        vectors.append((total / divisor if is_mean and length else total)[None])
    return torch.cat(vectors)


def bag_by_torch(
    rows: torch.Tensor, lengths: torch.Tensor, weights: torch.Tensor | None, is_mean: bool
) -> torch.Tensor:
    """torch's embedding_bag, which has no weighted mean: weights are divided by their sum before."""
    if is_mean and weights is not None:
        bags = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        weights = weights / torch.zeros(len(lengths)).index_add(0, bags, weights)[bags]
    places = torch.arange(len(rows))
    return functional.embedding_bag(places, rows, lengths.cumsum(0) - lengths, mode="sum", per_sample_weights=weights)


def _table(index: int, config: ModelConfig) -> torch.Tensor:
    key_space = KeySpace(SCHEMA.num_embeddings)
    keys = np.arange(key_space.table_offsets[index], key_space.table_offsets[index + 1])
    rows = np.empty((len(keys), config.row_dim), dtype=np.float32)
    RowInitializer(key_space, config.embedding_columns, seed=0).fill(keys, rows)
    return torch.from_numpy(rows)
