"""`bagpipe train`: run one rank of a training job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bagpipe_hpc.cli.job import job_request, run_job
from bagpipe_hpc.early_signals import keep_signals
from bagpipe_hpc.garbage_collection import pause_collector


def train(
    data: Annotated[Path, typer.Option(help="Directory of a data set that `bagpipe import` or `bagpipe synth` made.")],
    run_dir: Annotated[
        Path, typer.Option(help="Directory for config.yaml, metrics.jsonl, checkpoints and summary.json.")
    ],
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings; every setting has a default.")] = None,
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
            metavar="auto|latest|best|PATH",
            help="Go on from a checkpoint. auto: the newest undamaged one; if there is none, from the start.",
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Write a checkpoint and stop before this much time has passed, as Slurm writes it: minutes, "
            "M:S, H:M:S, D-H:M:S; or with a unit, such as 90s. "
            "Default: the end of the Slurm job, if SLURM_JOB_END_TIME is set.",
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="Run in this process, without mpirun: each rank is a thread, and there is one trainer."
        ),
    ] = False,
) -> None:
    """Train a model. Rank 0 is the oracle, then come the embedding servers, then the trainers.

    Start it on all ranks of a job: mpirun -n 4 bagpipe train --data DIR --run-dir DIR

    If any rank receives SIGTERM, SIGINT, SIGHUP or SIGUSR1, the job writes a checkpoint and ends with exit code 75. A
    second signal ends it at once. Send SIGUSR1 to mpirun, which passes it on: after other signals, mpirun of Open MPI
    kills all ranks within a second.
    """
    keep_signals()  # until the job can react to them
    pause_collector()  # until this rank starts to play its role
    traced = trace_iterations or (":" if trace else None)
    run_job(
        lambda: job_request(config, data, run_dir, overrides or [], traced, resume, time_limit, is_local=local),
        is_local=local,
    )
