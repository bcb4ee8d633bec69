"""The place where a start of a job begins, with the checkpoint that it goes on from. Each rank opens it once."""

from __future__ import annotations

from dataclasses import dataclass

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.runtime.data_position import DataPosition
from bagpipe_hpc.runtime.spec import JobSpec


@dataclass(frozen=True)
class StartingPoint:
    """Where this start of a job begins.

    Args:
        position: The position in the training data.
        checkpoint: The checkpoint that the job goes on from. None: the job starts afresh.
        keeps_caches: Whether trainers restore their caches, because the number of trainers is that of the checkpoint.
    """

    position: DataPosition
    checkpoint: Checkpoint | None = None
    keeps_caches: bool = False

    @classmethod
    def of(cls, spec: JobSpec) -> StartingPoint:
        """Open the checkpoint that a job names.

        Raises:
            CheckpointError: the checkpoint is gone or damaged.
        """
        checkpoint = None if spec.resumed is None else Checkpoint.open(spec.resumed)
        return cls(spec.start, checkpoint, spec.keeps_caches)
