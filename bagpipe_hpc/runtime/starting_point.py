"""The checkpoint that a job goes on from, opened once by each rank."""

from __future__ import annotations

from dataclasses import dataclass

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.runtime.data_position import DataPosition
from bagpipe_hpc.runtime.spec import JobSpec


@dataclass(frozen=True)
class StartingPoint:
    """Where this start of a job begins.

    Args:
        position: In the training data.
        checkpoint: What the job goes on from; None: it starts afresh.
        keeps_caches: Whether trainers load their caches, because there are as many trainers as there were.
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
