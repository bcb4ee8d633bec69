"""The parts of a trainer, built from the settings of the job."""

from __future__ import annotations

import torch

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.dense_gradients import DenseSynchronizer
from bagpipe_hpc.trainer.dense_optimizer import build_dense_optimizer
from bagpipe_hpc.trainer.dense_sum import DenseSum
from bagpipe_hpc.trainer.models import build_model
from bagpipe_hpc.trainer.own_model import ModelFactory, build_own_model, model_inputs
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.row_optimizer import build_optimizer_of_tables
from bagpipe_hpc.trainer.step import Peers, Stopwatch, TrainingStep
from bagpipe_hpc.trainer.wire import Wire


def build_step(
    config: Config,
    *,
    schema: Schema,
    factory: ModelFactory | None = None,
    num_slots: int,
    trainer_rank: int,
    device: torch.device,
    dense_sum: DenseSum,
    peers: Peers,
    delayed_peers: Peers | None,
    stopwatch: Stopwatch,
    delayed_stopwatch: Stopwatch,
) -> TrainingStep:
    """Build the model, the optimizers and the cache of one trainer, ready to play plans.

    Args:
        config: The settings of the job.
        schema: The schema of the data set.
        factory: Makes the user's own model. None: `config.model` names the model.
        num_slots: Slots of the cache.
        trainer_rank: The rank of this trainer among the trainers.
        device: Where the model and the cache live.
        dense_sum: Sums dense gradients over the trainers.
        peers: Exchanges rows with the other trainers in `gather` and `apply`.
        delayed_peers: Exchanges them in `start` and `finish`. None: nothing is early or delayed.
        stopwatch: Gets the time of each part.
        delayed_stopwatch: Gets the time of `start` and `finish`.
    Raises:
        OwnModelError: the factory fails, or its model cannot be trained.
    Communication: none.
    """
    model = _build_model(config, schema, factory, trainer_rank).to(device)
    dense_rate = LearningRate(config.dense_learning_rate, config.schedule)
    return TrainingStep(
        trainer_rank=trainer_rank,
        model=model,
        row_dim=config.model.row_dim,
        table_names=tuple(table.name for table in schema.tables),
        pooling=Pooling(schema, config),
        cache=RowCache(num_slots, row_width(config), device),
        row_optimizer=build_optimizer_of_tables(config, schema),
        dense_optimizer=build_dense_optimizer(config.dense_optimizer, model.parameters(), dense_rate),
        dense_gradients=DenseSynchronizer(model, dense_sum),
        in_bfloat16=config.training.precision == "bfloat16",
        peers=peers,
        delayed_peers=delayed_peers,
        wire=Wire(config.training.wire_dtype),
        stopwatch=stopwatch,
        delayed_stopwatch=delayed_stopwatch,
    )


def _build_model(config: Config, schema: Schema, factory: ModelFactory | None, trainer_rank: int) -> torch.nn.Module:
    seed = config.training.seed
    if config.model.factory is None:
        dims = [config.embedding_dim_of(table.shares or table.name) for table in schema.tables]
        return build_model(config.model, schema.num_dense, schema.num_tables, seed, dims)
    model = build_own_model(config.model, model_inputs(config, schema), factory)
    torch.manual_seed(seed + 1 + trainer_rank)  # for random numbers that the model draws during training
    return model
