"""The parts of a trainer, built from the settings of the job."""

from __future__ import annotations

from functools import partial

import torch

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.dense_gradients import DenseSynchronizer
from bagpipe_hpc.trainer.dense_optimizer import build_dense_optimizer
from bagpipe_hpc.trainer.dense_sum import DenseSum
from bagpipe_hpc.trainer.device.base import Device, Forward
from bagpipe_hpc.trainer.device.row_step import fusible_optimizer
from bagpipe_hpc.trainer.feature_inputs import item_places, sequence_inputs, vectors_of
from bagpipe_hpc.trainer.models import build_model
from bagpipe_hpc.trainer.objective import Objective
from bagpipe_hpc.trainer.own_model import ModelFactory, build_own_model, model_inputs
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.random_state import seed_of_block
from bagpipe_hpc.trainer.sample_blocks import ONE_BLOCK, BlockShare
from bagpipe_hpc.trainer.step import Peers, Stopwatch, TrainingStep
from bagpipe_hpc.trainer.wire import Wire


def build_step(
    config: Config,
    *,
    schema: Schema,
    model: torch.nn.Module,
    forward: Forward | None = None,
    num_slots: int,
    trainer_rank: int,
    num_trainers: int,
    device: Device,
    dense_sum: DenseSum,
    peers: Peers,
    delayed_peers: Peers | None,
    stopwatch: Stopwatch,
    delayed_stopwatch: Stopwatch,
) -> TrainingStep:
    """Build the optimizers and the cache of one trainer around its model, ready to play plans.

    Args:
        config: The settings of the job.
        schema: The schema of the data set.
        model: The model, on the device.
        forward: Runs the model in training. None: the model itself.
        num_slots: Slots of the cache.
        trainer_rank: The rank of this trainer among the trainers.
        num_trainers: T.
        device: The device of the trainer.
        dense_sum: Sums dense gradients over the trainers.
        peers: Exchanges rows with the other trainers in `gather` and `apply`.
        delayed_peers: Exchanges them in `start` and `finish`. None: nothing is early or delayed.
        stopwatch: Gets the time of each part.
        delayed_stopwatch: Gets the time of `start` and `finish`.
    Communication: none.
    """
    total, seed = config.training.blocks, config.training.seed
    blocks = ONE_BLOCK
    if total is not None:
        count = total // num_trainers
        blocks = BlockShare(trainer_rank * count, count, total)
    dense_rate = LearningRate(config.dense_learning_rate, config.schedule)
    return TrainingStep(
        trainer_rank=trainer_rank,
        model=model,
        forward=forward,
        row_dim=config.model.row_dim,
        table_names=tuple(table.name for table in vectors_of(config, schema)),
        pooling=Pooling(schema, config, device),
        objective=Objective(config, schema, device.torch_device),
        cache=RowCache(num_slots, row_width(config), device),
        row_optimizer=fusible_optimizer(config, schema, waits=device.shares_memory),
        dense_optimizer=build_dense_optimizer(
            config.dense_optimizer, model.parameters(), dense_rate, waits=device.shares_memory
        ),
        dense_gradients=DenseSynchronizer(model, dense_sum, device, blocks.count),
        blocks=blocks,
        seed_of_block=None if total is None else partial(seed_of_block, seed),
        in_bfloat16=config.training.precision == "bfloat16",
        peers=peers,
        delayed_peers=delayed_peers,
        wire=Wire(config.training.wire_dtype),
        stopwatch=stopwatch,
        delayed_stopwatch=delayed_stopwatch,
    )


def build_trained_model(
    config: Config, schema: Schema, factory: ModelFactory | None, trainer_rank: int, device: Device
) -> torch.nn.Module:
    """Build the model of a trainer, the same at all trainers, on the device.

    Args:
        config: The settings of the job.
        schema: The schema of the data set.
        factory: Makes the user's own model. None: `config.model` names the model.
        trainer_rank: The rank of this trainer among the trainers. Random numbers during training depend on it.
        device: The device of the trainer.
    Raises:
        OwnModelError: the factory fails, or its model cannot be trained.
    Communication: none.
    """
    return _model(config, schema, factory, trainer_rank).to(device.torch_device)


def _model(config: Config, schema: Schema, factory: ModelFactory | None, trainer_rank: int) -> torch.nn.Module:
    seed = config.training.seed
    if config.model.factory is None:
        vectors = vectors_of(config, schema)
        dims = [config.embedding_dim_of(table.table_name) for table in vectors]
        sequences = sequence_inputs(config, schema)
        item = item_places(config, schema) if config.model.name == "two_tower" else ()
        return build_model(config.model, schema.num_dense, len(vectors), seed, dims, schema.num_labels, sequences, item)
    model = build_own_model(config.model, model_inputs(config, schema), factory)
    torch.manual_seed(seed + 1 + trainer_rank)  # for random numbers that the model draws during training
    return model
