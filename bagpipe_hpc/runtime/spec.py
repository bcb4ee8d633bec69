"""A job as every rank sees it, after the oracle has checked it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bagpipe_hpc.checkpoint.partial import PartialCheckpoint, expect_unfinished
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.runtime.data_position import BEGINNING, DataPosition


@dataclass(frozen=True)
class CheckpointSpec:
    """Where a job writes its checkpoints.

    Args:
        root: The directory of checkpoints.
        generation: The number of this start of the job.
    """

    root: Path
    generation: int

    def partial(self, num_trained: int, row_width: int) -> PartialCheckpoint:
        """Return the checkpoint after the first num_trained training iterations, for the ranks to write into."""
        expect_unfinished(self.root, self.generation)
        return PartialCheckpoint(self.root, self.generation, num_trained, row_width)


@dataclass(frozen=True)
class JobSpec:
    """A job, as every rank sees it.

    Args:
        config: The settings of the job.
        schema: The schema of the samples.
        traced: The first plan to trace, and the first one after it that is not traced. None: tracing is off.
        start: Where training starts or goes on.
        checkpoints: Where checkpoints go. None: the job neither writes nor reads checkpoints.
        resumed: The checkpoint that the job goes on from. None: it starts afresh.
        keeps_caches: Whether trainers restore their caches, because the number of trainers is that of the checkpoint.
        predictions: The file for the predictions of an evaluation. None: they are not saved.
        evaluates_only: Whether the job only evaluates.
        dense_backend: What sums dense gradients: horovod, mpi, nccl, or none if there is nothing to sum.
        exchange: How rows get from trainer to trainer: through host memory (host), from GPU to GPU (device), or none if
            there is one trainer.
    """

    config: Config
    schema: Schema
    traced: tuple[int, int] | None = None
    start: DataPosition = BEGINNING
    checkpoints: CheckpointSpec | None = None
    resumed: Path | None = None
    keeps_caches: bool = False
    predictions: Path | None = None
    evaluates_only: bool = False
    dense_backend: str = "none"
    exchange: str = "none"

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """The number of rows of each table."""
        return self.schema.num_embeddings

    def to_bytes(self) -> bytes:
        """Return the job as JSON."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json")).encode()

    @staticmethod
    def from_bytes(content: bytes) -> JobSpec:
        """Return the job that `to_bytes` has written."""
        return _ADAPTER.validate_python(json.loads(content))


_ADAPTER = TypeAdapter(JobSpec)
