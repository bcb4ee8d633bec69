"""`bagpipe eval` and `bagpipe predict`: apply a trained model to a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from bagpipe_hpc.cli.job import job_request, run_job
from bagpipe_hpc.launcher import is_alone

Split = Literal["validation", "train"]
CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A checkpoint. For a directory of checkpoints or a run directory: its latest checkpoint.",
    ),
]
DataOption = Annotated[Path, typer.Option(help="Data set with the schema that the model was trained with.")]
RunDirOption = Annotated[Path, typer.Option(help="Directory for summary.json.")]
SplitOption = Annotated[Split, typer.Option(help="Split of the data set to read.")]
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
    """Compute the metrics of a trained model: AUC, log loss, normalised entropy, calibration; more for other labels.

    Without a launcher it runs in this process: bagpipe eval runs/first/checkpoints --data DIR

    Under a launcher it uses all ranks, whatever their number: mpirun -n 4 bagpipe eval ...
    """
    _run(checkpoint, data, run_dir, split, overrides, None)


def predict(
    checkpoint: CheckpointArgument,
    data: DataOption,
    output: Annotated[
        Path,
        typer.Option(
            help="NumPy file (.npy) to create: probabilities, float32, in the order of the samples; a column per label."
        ),
    ],
    run_dir: RunDirOption = Path("runs/predict"),
    split: SplitOption = "validation",
    overrides: OverridesOption = None,
) -> None:
    """Write the predictions of a trained model to a file.

    Without a launcher it runs in this process: bagpipe predict runs/first/checkpoints --data DIR --output clicks.npy

    Under a launcher it uses all ranks: mpirun -n 4 bagpipe predict ...
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
