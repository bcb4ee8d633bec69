"""What every rank knows once the oracle has validated everything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.runtime.data_position import BEGINNING, Position
from bagpipe_hpc.runtime.file_writer import CheckpointSpec


@dataclass(frozen=True)
class JobSpec:
    """A job, as every rank sees it.

    Args:
        config: All settings.
        schema: Of the samples.
        traced: Iterations to trace; None: tracing is off.
        start: Where training starts or goes on.
        checkpoints: None: none are written, and the job goes on from none.
        predictions: Where those of the evaluation go; None: nowhere.
        evaluates_only: Whether there is nothing to train.
    """

    config: Config
    schema: Schema
    traced: range | None = None
    start: Position = BEGINNING
    checkpoints: CheckpointSpec | None = None
    predictions: Path | None = None
    evaluates_only: bool = False

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Rows of each table."""
        return self.schema.num_embeddings
