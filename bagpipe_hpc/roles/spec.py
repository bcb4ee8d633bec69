"""What every rank knows once the oracle has validated everything."""

from __future__ import annotations

from dataclasses import dataclass

from bagpipe_hpc.config import Config


@dataclass(frozen=True)
class JobSpec:
    """A job, as every rank sees it.

    Args:
        config: All settings.
        num_embeddings: Rows of each table.
        num_dense: Dense features.
        traced: Iterations to trace; None: tracing is off.
    """

    config: Config
    num_embeddings: tuple[int, ...]
    num_dense: int
    traced: range | None = None
