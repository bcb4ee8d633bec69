"""`bagpipe eval` and `bagpipe predict`: a trained model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Split = Literal["validation", "train"]
CheckpointArgument = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint, or a directory of some.")]
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

    Start it on all ranks of a job, as many as there are: mpirun -n 4 bagpipe eval runs/first/checkpoints --data DIR
    """
    _run(checkpoint, data, run_dir, split, overrides, None)


def predict(
    checkpoint: CheckpointArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option(help="NumPy file of click probabilities: float32, as the samples come.")],
    run_dir: RunDirOption = Path("runs/predict"),
    split: SplitOption = "validation",
    overrides: OverridesOption = None,
) -> None:
    """Write what a trained model predicts.

    Start it on all ranks: mpirun -n 4 bagpipe predict runs/first/checkpoints --data DIR --output clicks.npy
    """
    _run(checkpoint, data, run_dir, split, overrides, output.absolute())


def _run(
    checkpoint: Path, data: Path, run_dir: Path, split: Split, overrides: list[str] | None, output: Path | None
) -> None:
    # Starts MPI: from here on a rank that fails must take the others with it.
    from bagpipe_hpc.roles.failure import whole_job_fails_together

    with whole_job_fails_together():
        from bagpipe_hpc.roles.job import Request, run_training

        settings = [*(overrides or []), f"evaluation.split={split}"]
        request = Request(
            None, data, run_dir, settings, resume=str(checkpoint), evaluates_only=True, predictions=output
        )
        code = run_training(request)
    if code:
        raise typer.Exit(code)
