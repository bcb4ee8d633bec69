"""The memory of a trainer's device: how many rows fit beside everything else, and what to do if it does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import DeviceMemoryError
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.trainer.device.base import Device

BAG_IDS = 8  # assumed ids of a bag
SEQUENCE_IDS = 64  # assumed elements of a sequence without max_length
OPTIMIZER_COPIES = 2  # assumed state of a dense optimizer, in copies of the parameters, as of Adam
SCORE_COPIES = 6  # of the scores of all pairs of samples: products, masked ones, gradients and what makes them
SPARE_SHARE = 0.1  # of the free memory, for the libraries of the device and for gaps between tensors


@dataclass(frozen=True)
class MemoryNeed:
    """What a trainer needs on its device besides the cache and the parameters, in bytes, as an estimate from above.

    Args:
        dense: Gradients of parameters, their buckets and the state of the optimizer.
        activations: What forward keeps for backward, and what backward adds.
        buffers: Blocks of iterations, rows, gradients and rows that leave.
    """

    dense: int
    activations: int
    buffers: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.dense + self.activations + self.buffers

    def __str__(self) -> str:
        """Return the parts in words."""
        parts = {"gradients and optimizer": self.dense, "activations": self.activations, "buffers": self.buffers}
        return ", ".join(f"{name} {in_words(num_bytes)}" for name, num_bytes in parts.items())


def need_of(config: Config, schema: Schema, model: torch.nn.Module, num_trainers: int) -> MemoryNeed:
    """Return what a trainer needs.

    Every id of a trainer's samples may name another row. Activations are those of the rows, as they are gathered,
    pooled and concatenated, the outputs of linear layers, each with its gradient, and the scores of two towers.

    Args:
        config: The settings of the job.
        schema: The schema of the samples.
        model: The model.
        num_trainers: T.
    """
    samples = -(-config.training.batch_size // num_trainers)
    per_pass = -(-config.training.batch_size // (config.training.blocks or num_trainers))
    ids = sum(_ids_of(config, table) for table in schema.tables)
    rows, row_dim, width = samples * ids, config.model.row_dim, row_width(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    outputs = sum(layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    # Words of index arrays per id. In a tree, each block of samples has ends of uses, and each row has T leaves.
    words = 16 + (config.training.blocks // num_trainers + num_trainers if config.training.blocks else 0)
    scores = per_pass**2 if config.model.name == "two_tower" and config.model.factory is None else 0
    depth, in_block = config.prefetch_depth, 4 * (rows * (width + words) + samples * (schema.num_dense + 1))
    return MemoryNeed(
        dense=4 * parameters * (2 + OPTIMIZER_COPIES),
        activations=4 * per_pass * (6 * ids * row_dim + 4 * outputs) + 4 * SCORE_COPIES * scores,
        buffers=(depth + 4) * in_block + 4 * rows * (8 * row_dim + 3 * width),
    )


def _ids_of(config: Config, table: TableSchema) -> int:
    if not table.sequence:
        return BAG_IDS if table.ragged else 1
    settings = config.tables.get(table.along or table.name)
    return settings.max_length if settings is not None and settings.max_length is not None else SEQUENCE_IDS


def most_rows(config: Config, need: Callable[[], MemoryNeed], device: Device, trainers_on_host: int) -> int:
    """Return how many rows the cache of a trainer can hold.

    This is the setting cache.rows. Without it, it is what a quarter of the free memory holds on the CPU, which has
    other users too, and on a GPU what remains beside the need.

    Args:
        config: The settings of the job.
        need: Returns what the trainer needs besides.
        device: Its device, on which the model is.
        trainers_on_host: The number of trainers of this host.
    Raises:
        DeviceMemoryError: nothing remains.
    """
    if config.cache.rows is not None:
        return config.cache.rows
    free, row_bytes = device.free_bytes(trainers_on_host), 4 * row_width(config)
    if device.shares_memory:
        return max(1, free // 4 // row_bytes)
    needed = need()
    rows = (int((1 - SPARE_SHARE) * free) - needed.total) // row_bytes
    if rows < 1:
        raise DeviceMemoryError(
            f"{device.name} has {in_words(free)} free for this trainer, which needs {in_words(needed.total)} besides "
            f"its cache ({needed}): {_cures()}"
        )
    return rows


@contextmanager
def naming_memory(described: Callable[[], str]) -> Iterator[None]:
    """Raise DeviceMemoryError if a device has no memory left for something inside the block.

    Args:
        described: Returns what the trainer holds, in words.
    Raises:
        DeviceMemoryError: the message has what torch says, what the trainer holds, and the settings that mend it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = " ".join(str(error).split())
        raise DeviceMemoryError(f"out of memory: {described()}; torch says: {said}; {_cures()}") from error


def in_words(num_bytes: int) -> str:
    """Return a number of bytes in words."""
    mib = num_bytes / (1 << 20)
    return f"{mib / 1024:.2f} GiB" if mib >= 100 else f"{mib:.2f} MiB"


def _cures() -> str:
    return (
        "lower cache.rows, training.batch_size or lookahead.prefetch_depth, set training.blocks to compute fewer "
        "samples at a time, or start fewer trainers per GPU"
    )
