"""`bagpipe eval` and `bagpipe predict`: a trained model on a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from bagpipe_hpc.cli.job import job_request, run_job
from bagpipe_hpc.launcher import is_alone

Split = Literal["validation", "train"]
CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, a directory of some, or a run directory.")
]
DataOption = Annotated[Path, typer.Option(help="Data set, of the schema the model was trained with.")]
RunDirOption = Annotated[Path, typer.Option(help="Where summary.json goes.")]
SplitOption = Annotated[Split, typer.Option(help="Samples to read.")]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting of the checkpoint.")
]


def evaluate(
    checkpoint: CheckpointArgument,
    data: DataOption,
    run_dir: RunDirOption = Path("runs/eval"),
    split: SplitOption = "validation",
    overrides: OverridesOption = None,
) -> None:
    """AUC, log loss, normalised entropy and calibration of a trained model.

    Without a launcher it runs in this process: bagpipe eval runs/first/checkpoints --data DIR

    Started on the ranks of a job, as many as there are, all of them work: mpirun -n 4 bagpipe eval ...
    """
    _run(checkpoint, data, run_dir, split, overrides, None)


def predict(
    checkpoint: CheckpointArgument,
    data: DataOption,
    output: Annotated[
        Path, typer.Option(help="New NumPy file (.npy) of click probabilities: float32, as the samples come.")
    ],
    run_dir: RunDirOption = Path("runs/predict"),
    split: SplitOption = "validation",
    overrides: OverridesOption = None,
) -> None:
    """Write what a trained model predicts.

    Without a launcher it runs in this process: bagpipe predict runs/first/checkpoints --data DIR --output clicks.npy

    Started on the ranks of a job, all of them work: mpirun -n 4 bagpipe predict ...
    """
    _run(checkpoint, data, run_dir, split, overrides, output.absolute())


def _run(
    checkpoint: Path, data: Path, run_dir: Path, split: Split, overrides: list[str] | None, output: Path | None
) -> None:
    is_local = is_alone(os.environ)
    run_job(
        lambda: job_request(
            None,
            data,
            run_dir,
            [*(overrides or []), f"evaluation.split={split}"],
            resume=str(checkpoint),
            evaluates_only=True,
            predictions=output,
            is_local=is_local,
        ),
        is_local=is_local,
    )
