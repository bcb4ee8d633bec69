"""The same model with all rows in the memory of the device: no plan, no copy, no exchange.

It has the parts of a trainer: the kernels of its device, its pooling, model and optimizers. All that a trainer gets for
an iteration is on the device before the time starts. So its time is that of computing alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.errors import DeviceMemoryError
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.sharding import KeySpace
from bagpipe_hpc.trainer.build import build_trained_model
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.dense_optimizer import build_dense_optimizer
from bagpipe_hpc.trainer.device.base import Device, DeviceArray, PlacedSamples, RowJob, SampleRows, UpdateLists
from bagpipe_hpc.trainer.device.row_step import fusible_optimizer
from bagpipe_hpc.trainer.device_memory import in_words, need_of
from bagpipe_hpc.trainer.iteration_lists import GradientList
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.sample_blocks import BlockSamples
from bagpipe_hpc.trainer.wire import FLOAT32

INITIAL_SCALE = 0.01  # of rows; what they hold does not change the time
SPARE_SHARE = 0.1  # of the free memory


@dataclass(frozen=True)
class ResidentBatch:
    """A batch on the device.

    Args:
        samples: Its samples.
        slots: The rows that they use, n in number, int32, shape (n,).
        packed: Room for these rows, float32, shape (n, row_dim).
        lists: The same rows, as rows to update.
    """

    samples: PlacedSamples
    slots: DeviceArray
    packed: DeviceArray
    lists: UpdateLists


class ResidentModel:
    """The model of a configuration, with all rows of all tables on the device.

    Args:
        config: The settings.
        schema: The schema of the samples, which have one id in each table.
        device: The device.
    Raises:
        DeviceMemoryError: the rows do not fit.
    """

    def __init__(self, config: Config, schema: Schema, device: Device) -> None:
        self.device, self.row_dim, self.row_width = device, config.model.row_dim, row_width(config)
        self._keys = KeySpace(schema.num_embeddings)
        self._model = build_trained_model(config, schema, None, 0, device)
        self._require_memory(need_of(config, schema, self._model, 1).total)
        waits = device.shares_memory
        dense_rate = LearningRate(config.dense_learning_rate, config.schedule)
        parameters = self._model.parameters()
        self._dense_optimizer = build_dense_optimizer(config.dense_optimizer, parameters, dense_rate, waits=waits)
        self._row_optimizer = fusible_optimizer(config, schema, waits=waits)
        self._pooling = Pooling(schema, config, device)
        self._job = RowJob(self._pooling.features.layout, self._row_optimizer, 0, in_tree=False)
        self.cache = RowCache(self._keys.num_keys, self.row_width, device)
        self.cache.rows.uniform_(-INITIAL_SCALE, INITIAL_SCALE)
        self.no_gradients = device.as_array(device.empty_rows(0, self.row_dim))

    def _require_memory(self, other_bytes: int) -> None:
        """Check that all rows fit beside what training needs besides."""
        needed = 4 * self._keys.num_keys * self.row_width + other_bytes
        usable = int((1 - SPARE_SHARE) * self.device.free_bytes(1))
        if needed > usable:
            raise DeviceMemoryError(
                f"all rows on {self.device.name} and what training needs besides take {in_words(needed)}, of which "
                f"{in_words(usable)} are free; give a lower --scale, --dims or --batch-sizes"
            )

    def place(self, batch: Batch) -> ResidentBatch:
        """Bring a batch to the device."""
        put, kernels = self.device.put, self.device.kernels
        num_samples = len(batch.labels)
        # (num_tables, num_samples): table by table, as a plan has them
        keys = np.ascontiguousarray((batch.ids + self._keys.table_offsets[:-1]).T)
        unique, positions = np.unique(keys, return_inverse=True)
        slots = unique.astype(np.int32)
        samples = BlockSamples(
            batch.labels, batch.dense, positions.ravel().astype(np.int32), np.zeros((0, num_samples), np.int64),
            np.empty(0, np.float32),
        )  # fmt: skip
        of_samples = [put(array) for array in kernels.arrays_of_samples(self._job, samples, len(slots))]
        tensors = (samples.sample_rows, samples.bag_lengths, samples.weights)
        labels, dense = (self.device.as_input(put(array)) for array in (batch.labels, batch.dense))
        rows, lengths, weights = (self.device.as_tensor(put(array)) for array in tensors)
        placed = PlacedSamples(labels, dense, rows, lengths, weights, [], of_samples)
        packed = self.device.as_array(self.device.empty_rows(len(slots), self.row_dim))
        return ResidentBatch(placed, put(slots), packed, self._lists(slots))

    def _lists(self, slots: np.ndarray[tuple[int], np.dtype[np.int32]]) -> UpdateLists:
        """Return the rows of a batch as rows to update, by gradients of own samples alone."""
        put, none = self.device.put, np.zeros(0, np.int64)
        updates = GradientList(
            np.arange(len(slots)), slots, len(slots), none, np.zeros(1, np.int64), np.zeros(2, np.int64)
        )  # fmt: skip
        own = [put(array) for array in self.device.kernels.arrays_of_updates(self._job, updates, 1)]
        positions, index = put(updates.positions), put(updates.index)
        return UpdateLists(put(slots), positions, len(slots), index, updates.starts, 0, own)

    def rows_of(self, batch: ResidentBatch) -> SampleRows:
        """Return the rows of a batch."""
        return self.cache.gather(batch.slots, batch.packed, FLOAT32)

    def pool(self, batch: ResidentBatch, rows: SampleRows, leaf: torch.Tensor) -> torch.Tensor:
        """Return the vectors of a batch; RowKernels.pool describes them."""
        return self.device.kernels.pool(self._pooling, batch.samples, rows, leaf)

    def update(self, batch: ResidentBatch, gradients: torch.Tensor) -> None:
        """Make a step on the rows of a batch.

        Args:
            batch: The batch.
            gradients: float32, shape (n, row_dim).
        """
        own = self.device.as_array(gradients)
        self.cache.update(batch.lists, own, self.no_gradients, self._row_optimizer, 1, in_tree=False)

    def train(self, batches: Sequence[ResidentBatch], iterations: int) -> None:
        """Train on batches in turn. On a GPU the host does not wait for the last ones."""
        for number in range(iterations):
            self._step(batches[number % len(batches)])

    def _step(self, batch: ResidentBatch) -> None:
        samples, rows = batch.samples, self.rows_of(batch)
        self._dense_optimizer.zero_grad()
        leaf = self.device.kernels.leaf(rows).detach().requires_grad_()
        logits = self._model(samples.dense, self.pool(batch, rows, leaf))
        losses = functional.binary_cross_entropy_with_logits(logits, samples.labels, reduction="sum")
        (losses / len(samples.labels)).backward()
        assert leaf.grad is not None
        self.update(batch, leaf.grad)
        self._dense_optimizer.step(1)
