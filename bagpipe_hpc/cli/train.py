"""`bagpipe train`: run one rank of a training job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bagpipe_hpc.cli.job import job_request, run_job
from bagpipe_hpc.early_signals import keep_signals
from bagpipe_hpc.garbage_collection import pause_collector


def train(
    data: Annotated[Path, typer.Option(help="Data set directory, as made by `bagpipe import` or `bagpipe synth`.")],
    run_dir: Annotated[Path, typer.Option(help="Where config.yaml, metrics.jsonl and summary.json go.")],
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings; every one has a default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write a timeline of all ranks, for `bagpipe report`.")
    ] = False,
    trace_iterations: Annotated[
        str | None, typer.Option(metavar="A:B", help="Trace only iterations A to B - 1; implies --trace.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|latest|best|PATH", help="Go on from a checkpoint; auto: the newest good one, if any."
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Write a checkpoint and stop before so long has passed: S, M:S, H:M:S, D-H:M:S. "
            "Default: the end of the Slurm job, where SLURM_JOB_END_TIME says it.",
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="Run in this process alone, without mpirun: ranks are threads, with one trainer."),
    ] = False,
) -> None:
    """Train a model: rank 0 is the oracle, then the embedding servers, then the trainers.

    Start it on all ranks of a job: mpirun -n 4 bagpipe train --data DIR --run-dir DIR

    SIGTERM, SIGINT, SIGHUP or SIGUSR1 to any rank: a checkpoint, then exit code 75. Another signal ends the job at
    once. Send mpirun SIGUSR1, which it passes on: after other signals, Open MPI's kills all ranks within a second.
    """
    keep_signals()  # until the job can heed them
    pause_collector()  # until this rank plays its role
    traced = trace_iterations or (":" if trace else None)
    run_job(
        lambda: job_request(config, data, run_dir, overrides or [], traced, resume, time_limit, is_local=local),
        is_local=local,
    )
