"""The request for a job, from the command line or from a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagpipe_hpc.config import Config


@dataclass(frozen=True)
class Request:
    """A request for a job.

    Args:
        settings: The path of a YAML file, settings by section, or a configuration. None: the defaults.
        data_path: The directory of the data set.
        run_path: The run directory.
        overrides: Settings that replace those of `settings`, as `section.key=value`.
        traced: The iterations to trace, as A:B. None: tracing is off.
        resume: "auto", "latest", "best", or the path of a checkpoint. None: the job starts afresh.
        evaluates_only: Whether to load a checkpoint with its settings, and only evaluate it.
        predictions: The file for the predictions of the evaluation. None: they are not saved.
        time_limit: A duration. None: the job ends with the batch job, if the environment says when that ends.
        build_model: Makes the model, in place of model.factory. None: the settings name the model.
        has_own_loop: Whether the program that makes the request also makes the steps.
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
