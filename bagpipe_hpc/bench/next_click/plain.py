"""The models of `bench next-click` in plain single-process PyTorch.

Rows are one parameter, gathered by torch.nn.functional, and updated by torch.optim. Batches come straight from the data
set. Nothing is planned, cached or exchanged. Only the dense part of a model and the initial rows are those of
bagpipe_hpc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.bench.next_click.case import Quality
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.oracle.ranking import grouped_metrics, weighted_auc
from bagpipe_hpc.sharding import KeySpace, share_boundaries
from bagpipe_hpc.trainer.feature_inputs import sequence_inputs
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models import build_model

HISTORY = "article_history"


class PlainModel(nn.Module):
    """A model with its rows.

    Args:
        config: The settings.
        dataset: Articles, and a history of articles.
    """

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__()
        schema = dataset.schema
        key_space = KeySpace(schema.num_embeddings)
        rows = np.empty((key_space.num_keys, config.model.row_dim), np.float32)
        RowInitializer(key_space, config.model.embedding_columns, config.training.seed).fill(
            np.arange(key_space.num_keys), rows
        )
        self.rows = nn.Parameter(torch.from_numpy(rows))
        sequences = sequence_inputs(config, schema)
        self.is_pooled = not sequences
        num_vectors = 2 if self.is_pooled else 1
        self.dense = build_model(config.model, 0, num_vectors, config.training.seed, sequences=sequences)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits, float32, shape (b,)."""
        articles = functional.embedding(torch.from_numpy(batch.ids[:, 0].astype(np.int64)), self.rows)
        bags = batch.bags[HISTORY]
        ids, offsets = torch.from_numpy(bags.ids), torch.from_numpy(bags.offsets)
        nothing = articles.new_empty(batch.num_samples, 0)
        if self.is_pooled:
            means = functional.embedding_bag(ids, self.rows, offsets, mode="mean", include_last_offset=True)
            logits: torch.Tensor = self.dense(nothing, torch.stack([articles, means], 1))
            return logits
        elements = {name: torch.from_numpy(values) for name, values in bags.elements.items()}
        history = JaggedSequence(functional.embedding(ids, self.rows), offsets, np.diff(bags.offsets), elements)
        logits = self.dense(nothing, articles.unsqueeze(1), {HISTORY: history})
        return logits


def train_plainly(config: Config, dataset: Dataset, num_parts: int, progress: Callable[[int], object]) -> Quality:
    """Train and evaluate a model.

    Gradients of a batch are accumulated over parts, so that they are added up in the order of as many trainers.

    Args:
        config: The settings, with adagrad for rows and adam for dense parameters.
        dataset: The data set.
        num_parts: The number of parts of a batch.
        progress: Called with the number of samples that are trained on.
    Communication: none.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.training.threads or 1)
    try:
        model = PlainModel(config, dataset)
        start = time.perf_counter()
        _train(model, config, dataset, num_parts, progress)
        return _quality(model, config, dataset, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)


def _train(
    model: PlainModel, config: Config, dataset: Dataset, num_parts: int, progress: Callable[[int], object]
) -> None:
    row_rate = LearningRate(config.row_learning_rate, config.schedule)
    dense_rate = LearningRate(config.dense_learning_rate, config.schedule)
    optimizers: list[tuple[torch.optim.Optimizer, LearningRate]] = [
        (torch.optim.Adagrad([model.rows]), row_rate),
        (torch.optim.Adam(model.dense.parameters()), dense_rate),
    ]
    num_trained = 0
    for epoch in range(config.training.epochs):
        for number, batch in enumerate(dataset.train.batches(config.training.batch_size)):
            assert batch.sample_weights is not None
            sum_of_weights = float(batch.sample_weights.sum(dtype=np.float64))
            model.zero_grad(set_to_none=False)
            for start, stop in pairwise(share_boundaries(batch.num_samples, num_parts)):
                (_sum_of_losses(model, batch.slice(start, stop)) / sum_of_weights).backward()
            num_trained += 1
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate(num_trained)
                optimizer.step()
            progress(epoch * dataset.train.num_samples + number * config.training.batch_size)


def _sum_of_losses(model: PlainModel, batch: Batch) -> torch.Tensor:
    """Return the losses of the samples, times their weights, added up."""
    losses = functional.binary_cross_entropy_with_logits(model(batch), torch.from_numpy(batch.labels), reduction="none")
    assert batch.sample_weights is not None
    return (losses * torch.from_numpy(batch.sample_weights)).sum()


def _quality(model: PlainModel, config: Config, dataset: Dataset, seconds: float) -> Quality:
    batches = list(dataset.validation.batches(config.evaluation.batch_size or config.training.batch_size))
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in batches])
    whole = Batch.concatenate(batches)
    assert whole.sample_weights is not None
    assert whole.groups is not None
    losses = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(whole.labels), reduction="none")
    found, weights = logits.numpy(), whole.sample_weights
    groups = grouped_metrics(found, whole.labels, whole.groups, config.evaluation.top_k, weights)
    return Quality(
        weighted_auc(found, whole.labels, weights) or 0.0,
        groups.grouped_auc or 0.0,
        groups.hit_rate or 0.0,
        float(np.average(losses.numpy(), weights=weights)),
        seconds,
        len(model.rows),
    )
