"""What the command line, or a program, asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagpipe_hpc.config import Config


@dataclass(frozen=True)
class Request:
    """A job to run.

    Args:
        settings: A YAML file, settings by section, or a configuration; None: the defaults.
        traced: Iterations to trace, as A:B; None: tracing is off.
        resume: "auto", "latest", "best", the path of a checkpoint, or None.
        evaluates_only: Whether to load the checkpoint, with the settings it was made with, and to train no further.
        predictions: Where those of the evaluation go.
        time_limit: A duration; None: until the end of the batch job, where its environment says when that is.
        build_model: Makes the model in place of model.factory.
        has_own_loop: Whether who asks makes the steps.
        is_local: Whether all ranks are threads of this process.
    """

    settings: Config | Mapping[str, Any] | str | Path | None
    data_path: Path
    run_path: Path
    overrides: list[str]
    traced: str | None = None
    resume: str | None = None
    time_limit: str | None = None
    evaluates_only: bool = False
    predictions: Path | None = None
    build_model: Callable[..., Any] | None = None
    has_own_loop: bool = False
    is_local: bool = False
