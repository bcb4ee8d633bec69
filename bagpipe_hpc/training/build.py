"""From settings to the parts of a trainer."""

from __future__ import annotations

import torch

from bagpipe_hpc.config import Config
from bagpipe_hpc.store.layout import row_width
from bagpipe_hpc.training.cache import RowCache
from bagpipe_hpc.training.dense import DenseSynchronizer
from bagpipe_hpc.training.dense_optimizer import build_dense_optimizer
from bagpipe_hpc.training.models import build_model
from bagpipe_hpc.training.row_optimizer import build_row_optimizer
from bagpipe_hpc.training.schedule import LearningRate
from bagpipe_hpc.training.step import Peers, Stopwatch, TrainingStep
from bagpipe_hpc.training.wire import Wire


def build_step(
    config: Config,
    *,
    num_dense: int,
    num_tables: int,
    num_slots: int,
    trainer_rank: int,
    device: torch.device,
    peers: Peers,
    delayed_peers: Peers | None,
    stopwatch: Stopwatch,
    delayed_stopwatch: Stopwatch,
) -> TrainingStep:
    """Model, optimizers and cache of one trainer, ready to play plans. Horovod must be initialised."""
    model = build_model(config.model, num_dense, num_tables, config.training.seed).to(device)
    row_rate = LearningRate(config.row_learning_rate, config.schedule)
    dense_rate = LearningRate(config.dense_learning_rate, config.schedule)
    return TrainingStep(
        trainer_rank=trainer_rank,
        model=model,
        row_dim=config.model.row_dim,
        num_tables=num_tables,
        cache=RowCache(num_slots, row_width(config), device),
        row_optimizer=build_row_optimizer(config.row_optimizer, row_rate),
        dense_optimizer=build_dense_optimizer(config.dense_optimizer, model.parameters(), dense_rate),
        dense=DenseSynchronizer(model),
        in_bfloat16=config.training.precision == "bfloat16",
        peers=peers,
        delayed_peers=delayed_peers,
        wire=Wire(config.training.wire_dtype),
        stopwatch=stopwatch,
        delayed_stopwatch=delayed_stopwatch,
    )
