"""A small data set with several labels, weights and groups, and plain single-process PyTorch training on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import LabelSchema, Schema, TableSchema
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.trainer.models import build_model

SCHEMA = Schema(
    dense=("d0", "d1"),
    tables=(TableSchema(name="user", num_embeddings=60), TableSchema(name="item", num_embeddings=500)),
    labels=(
        LabelSchema(name="click"),
        LabelSchema(name="like", optional=True),
        LabelSchema(name="stars", kind="real", optional=True),
    ),
    weighted=True,
    group="user",
)
WEIGHTS = {"click": 1.0, "like": 0.5, "stars": 0.25}
NUM_SAMPLES = 700


def make_labelled_dataset(path: Path) -> Path:
    """Clicks depend on user and item; only clicked samples have the two other labels."""
    random = np.random.default_rng(3)
    with DatasetWriter(path, SCHEMA, samples_per_shard=300) as writer:
        for split in ("train", "validation"):
            writer.append(split, _batch(random))
    return path


def _batch(random: np.random.Generator) -> Batch:
    ids = np.stack([random.integers(0, 60, NUM_SAMPLES), (random.random(NUM_SAMPLES) ** 3 * 500).astype(np.int64)], 1)
    dense = random.normal(size=(NUM_SAMPLES, 2)).astype(np.float32)
    taste = dense[:, 0] + (ids[:, 0] % 3 == ids[:, 1] % 3) + random.normal(size=NUM_SAMPLES) / 2
    labels = np.stack([taste > 0.5, taste > 1, 2 * taste], axis=1).astype(np.float32)
    labels[labels[:, 0] == 0, 1:] = np.nan
    weights = random.choice([0, 0.5, 1, 2.5], NUM_SAMPLES).astype(np.float32)
    return Batch(labels, dense, ids, sample_weights=weights, groups=ids[:, 0].astype(np.int64))


def plain_digest(dataset: Path, num_shares: int, epochs: int, batch_size: int, rate: float, config: ModelConfig) -> str:
    """Return the model digest after SGD. Gradients are accumulated over num_shares contiguous parts of each batch."""
    torch.set_num_threads(1)
    train = open_dataset(dataset).train
    key_space = KeySpace(SCHEMA.num_embeddings)
    rows = np.empty((key_space.num_keys, config.row_dim), dtype=np.float32)
    RowInitializer(key_space, config.embedding_columns, seed=0).fill(np.arange(key_space.num_keys), rows)
    table = torch.from_numpy(rows).requires_grad_()
    model = build_model(config, SCHEMA.num_dense, SCHEMA.num_tables, 0, (), SCHEMA.num_labels)
    optimizer = torch.optim.SGD([*model.parameters(), table], lr=rate)
    offsets = torch.from_numpy(key_space.table_offsets[:-1])
    used = np.zeros(key_space.num_keys, np.bool_)
    factors = torch.tensor(list(WEIGHTS.values()))
    for _ in range(epochs):
        for batch in train.batches(batch_size):
            assert batch.sample_weights is not None
            labels, weights = torch.from_numpy(batch.labels), torch.from_numpy(batch.sample_weights)
            ids = torch.from_numpy(batch.ids.astype(np.int64)) + offsets
            used[ids.numpy()] = True
            known = ~labels.isnan()
            divisors = (known * weights[:, None]).double().sum(0).float()
            optimizer.zero_grad(set_to_none=False)
            for share in torch.arange(batch.num_samples).tensor_split(num_shares):
                logits = model(torch.from_numpy(batch.dense)[share], functional.embedding(ids[share], table))
                target = labels[share].nan_to_num(0)
                entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
                losses = torch.cat([entropy[:, :2], (logits - target).square()[:, 2:]], dim=1)
                losses = torch.where(known[share], losses, 0) * weights[share, None]
                (losses.sum(0) / divisors * factors).sum().backward()
            optimizer.step()
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + b"\0" + parameter.detach().numpy().astype("<f4").tobytes())
    for key in np.flatnonzero(used):
        digest.update(int(key).to_bytes(8, "little") + table.detach()[key].numpy().astype("<f4").tobytes())
    return digest.hexdigest()
