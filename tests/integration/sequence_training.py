"""A small data set of click histories, a model that attends to them, and plain single-process PyTorch training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc import JaggedSequence, ModelInputs
from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import ElementSchema, Schema, TableSchema
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.trainer.feature_inputs import item_places, sequence_inputs
from bagpipe_hpc.trainer.models import build_model

SCHEMA = Schema(
    dense=("d0",),
    tables=(
        TableSchema(
            name="clicked",
            num_embeddings=300,
            ragged=True,
            shares="item",
            sequence=True,
            elements=(ElementSchema(name="time", kind="integer"), ElementSchema(name="stars")),
        ),
        TableSchema(name="item", num_embeddings=300),
        TableSchema(name="action", num_embeddings=4, ragged=True, sequence=True, along="clicked"),
        TableSchema(name="tags", num_embeddings=50, ragged=True),
    ),
)
NUM_SAMPLES, DIM = 400, 8


def make_sequence_dataset(path: Path) -> Path:
    """Histories of 0 to 12 clicks; a sample is a click if its item is near those of the history."""
    random = np.random.default_rng(2)
    with DatasetWriter(path, SCHEMA, samples_per_shard=150) as writer:
        for split in ("train", "validation"):
            writer.append(split, _batch(random))
    return path


def _batch(random: np.random.Generator) -> Batch:
    lengths = random.integers(0, 13, NUM_SAMPLES)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    taste = random.integers(0, 3, NUM_SAMPLES)
    clicked = 3 * (random.random(offsets[-1]) ** 2 * 100).astype(np.int64) + np.repeat(taste, lengths)
    item = 3 * (random.random(NUM_SAMPLES) ** 2 * 100).astype(np.int64) + random.integers(0, 3, NUM_SAMPLES)
    elements = {
        "time": np.arange(offsets[-1]) + 10**12,
        "stars": random.random(offsets[-1]).astype(np.float32),
    }
    tags = np.concatenate([[0], np.cumsum(random.integers(0, 3, NUM_SAMPLES))]).astype(np.int64)
    bags = {
        "clicked": Bags(offsets, clicked, elements=elements),
        "action": Bags(offsets, random.integers(0, 4, offsets[-1])),
        "tags": Bags(tags, random.integers(0, 50, tags[-1])),
    }
    labels = ((item % 3 == taste) & (lengths > 0)).astype(np.float32)
    dense = random.normal(size=(NUM_SAMPLES, 1)).astype(np.float32)
    return Batch(labels, dense, item[:, None], bags)


class Attention(nn.Module):
    """Attends from the item to the elements of the history, which are clicks, actions, ages and stars."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(3 * dim + 2, 1)
        self.output = nn.Linear(3 * dim + 1, 1)

    def forward(
        self, dense: torch.Tensor, embedded: torch.Tensor, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return logits (b,)."""
        clicked, action = sequences["clicked"], sequences["action"]
        item, samples = embedded[:, 0], clicked.samples
        newest = clicked.elements["time"].new_zeros(len(item)).index_add(0, samples, torch.ones_like(samples))
        values = torch.stack([clicked.elements["stars"], 1 / newest.index_select(0, samples).float()], 1)
        inputs = [clicked.embedded, action.embedded, item.index_select(0, samples), values]
        weights = clicked.padded(self.score(torch.cat(inputs, 1)).squeeze(1))
        weights = functional.softmax(weights.masked_fill(~clicked.mask, -1e9), dim=1) * clicked.mask
        history = (weights[:, :, None] * clicked.padded(clicked.embedded)).sum(1)
        logits: torch.Tensor = self.output(torch.cat([dense, embedded.flatten(1), history], 1)).squeeze(1)
        return logits


def build(inputs: ModelInputs) -> nn.Module:
    """Return the model, as model.factory."""
    assert dict(inputs.sequences) == {"clicked": 300, "action": 4}
    assert inputs.elements["clicked"] == (("stars",), ("time",))
    return Attention(inputs.embedding_dim)


def attention() -> nn.Module:
    """Return the model as a job builds it."""
    torch.manual_seed(0)
    return Attention(DIM)


def din() -> nn.Module:
    """Return the built-in model as a job builds it."""
    config = Config.model_validate({"model": {"name": "din", "embedding_dim": DIM}})
    return build_model(config.model, 1, 2, 0, sequences=sequence_inputs(config, SCHEMA))


def towers() -> nn.Module:
    """Return the built-in model as a job builds it."""
    config = Config.model_validate({"model": {"name": "two_tower", "embedding_dim": DIM}})
    item = item_places(config, SCHEMA)
    return build_model(config.model, 1, 2, 0, sequences=sequence_inputs(config, SCHEMA), item=item)


Loss = Callable[[nn.Module, tuple[Any, ...], Batch, Batch], torch.Tensor]


def mean_entropy(model: nn.Module, inputs: tuple[Any, ...], share: Batch, whole: Batch) -> torch.Tensor:
    """Return the part of a share in the mean binary cross-entropy of a whole batch."""
    labels = torch.from_numpy(share.labels)
    return functional.binary_cross_entropy_with_logits(model(*inputs), labels, reduction="sum") / whole.num_samples


class SampledSoftmax:
    """The part of a share in the loss of two towers, whose candidates are the items of the share."""

    def __init__(self) -> None:
        self._counted: Batch | None = None
        self._counts = Counter[int]()

    def __call__(self, model: Any, inputs: tuple[Any, ...], share: Batch, whole: Batch) -> torch.Tensor:
        """Return the loss, a scalar."""
        if self._counted is not whole:
            self._counted = whole
            self._counts.update(whole.ids[:, 0].tolist())
        items = share.ids[:, 0].tolist()
        u, v = model.vectors(*inputs)
        scores = u @ v.t() / 0.05 - torch.tensor([self._counts[item] for item in items]).float().log()
        others = torch.tensor([[i != j and items[i] == items[j] for j in range(len(items))] for i in range(len(items))])
        losses = scores.masked_fill(others, -torch.inf).logsumexp(1) - scores.diagonal()
        total: torch.Tensor = losses.masked_fill(torch.from_numpy(share.labels) != 1, 0).sum()
        return total / float(whole.labels.sum())


def plain_digest(
    dataset: Path,
    model: nn.Module,
    num_shares: int,
    epochs: int,
    batch_size: int,
    rate: float,
    max_length: int,
    loss: Loss = mean_entropy,
) -> str:
    """Return the model digest after SGD. Gradients are accumulated over num_shares contiguous parts of each batch."""
    torch.set_num_threads(1)
    train = open_dataset(dataset).train
    key_space = KeySpace(SCHEMA.num_embeddings)
    rows = np.empty((key_space.num_keys, DIM), dtype=np.float32)
    RowInitializer(key_space, DIM, seed=0).fill(np.arange(key_space.num_keys), rows)
    names = [table.name for table in SCHEMA.own_tables]
    tables = {
        name: torch.from_numpy(rows[start:stop]).clone().requires_grad_()
        for name, start, stop in zip(names, key_space.table_offsets[:-1], key_space.table_offsets[1:], strict=True)
    }
    optimizer = torch.optim.SGD([*model.parameters(), *tables.values()], lr=rate)
    used: dict[str, set[int]] = {name: set() for name in names}
    for _ in range(epochs):
        for whole in train.batches(batch_size):
            optimizer.zero_grad(set_to_none=False)
            for share in np.array_split(np.arange(whole.num_samples), num_shares):
                batch = whole.slice(share[0], share[-1] + 1)
                clicked, action = (batch.bags[name].newest(max_length) for name in ("clicked", "action"))
                used["item"] |= {*clicked.ids.tolist(), *batch.ids[:, 0].tolist()}
                used["action"] |= set(action.ids.tolist())
                used["tags"] |= set(batch.bags["tags"].ids.tolist())
                item = functional.embedding(torch.from_numpy(batch.ids[:, 0].astype(np.int64)), tables["item"])
                tags = _sums(batch.bags["tags"], tables["tags"])
                embedded = torch.stack([item, tags], 1)
                sequences = {
                    name: JaggedSequence(
                        functional.embedding(torch.from_numpy(bags.ids), tables[table]),
                        torch.from_numpy(bags.offsets),
                        np.diff(bags.offsets),
                        {element: torch.from_numpy(values) for element, values in bags.elements.items()},
                    )
                    for name, table, bags in (("clicked", "item", clicked), ("action", "action", action))
                }
                loss(model, (torch.from_numpy(batch.dense), embedded, sequences), batch, whole).backward()
            optimizer.step()
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + b"\0" + parameter.detach().numpy().astype("<f4").tobytes())
    for name, offset in zip(names, key_space.table_offsets[:-1], strict=True):
        for row in sorted(used[name]):
            digest.update(int(offset + row).to_bytes(8, "little"))
            digest.update(tables[name].detach()[row].numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _sums(bags: Bags, table: torch.Tensor) -> torch.Tensor:
    rows = functional.embedding(torch.from_numpy(bags.ids), table)
    return torch.segment_reduce(rows, "sum", lengths=torch.from_numpy(np.diff(bags.offsets)), axis=0, unsafe=True)
