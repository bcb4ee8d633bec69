"""Commands on job scripts: `jobs render`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(help="Job scripts for batch systems.", no_args_is_help=True)


class SystemChoice(StrEnum):
    """Values of --system."""

    SLURM = "slurm"
    PBS = "pbs"
    LSF = "lsf"
    FLUX = "flux"


class TemplateChoice(StrEnum):
    """Values of --template."""

    TRAIN = "train"
    TRAIN_MPIRUN = "train-mpirun"
    TRAIN_HET = "train-het"
    IMPORT = "import"
    BENCH = "bench"


class MpiChoice(StrEnum):
    """Values of --mpi."""

    OPENMPI = "openmpi"
    MPICH = "mpich"


def _option(text: str, *names: str, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=text, metavar=metavar)
    return option


@app.callback()
def jobs() -> None:
    """Keeps the name of a command needed, also while there is only one."""


@app.command()
def render(
    context: typer.Context,  # whose parameters, the rest of this list, are the fields of a description
    system: Annotated[SystemChoice | None, _option("Batch system.")] = None,
    template: Annotated[TemplateChoice | None, _option("What the job does.")] = None,
    mpi: Annotated[MpiChoice | None, _option("Kind of MPI that the environment was built with.")] = None,
    name: Annotated[str | None, _option("Name of the job.")] = None,
    account: Annotated[str | None, _option("What the job is charged to.")] = None,
    queue: Annotated[str | None, _option("Queue, or partition.")] = None,
    time_limit: Annotated[str | None, _option("Of one run; the job goes on in another.", metavar="HH:MM:SS")] = None,
    warning_seconds: Annotated[int | None, _option("Before the time limit, for the last checkpoint.")] = None,
    checkpoint_every: Annotated[int | None, _option("Iterations from one checkpoint to the next.")] = None,
    max_restarts: Annotated[int | None, _option("Of a job that gets no further: then no more.")] = None,
    nodes: Annotated[int | None, _option("Nodes; in train-het those of the trainers.")] = None,
    min_nodes: Annotated[int | None, _option("So few will do once nodes have failed.")] = None,
    server_nodes: Annotated[int | None, _option("train-het: nodes of oracle and servers.")] = None,
    servers: Annotated[int | None, _option("Embedding servers.")] = None,
    gpus_per_node: Annotated[int | None, _option("GPUs of a node, 0 to train on CPUs.")] = None,
    trainers_per_node: Annotated[int | None, _option("Default: one for each GPU.")] = None,
    threads: Annotated[int | None, _option("Cores of each rank; import: ranks of each node.")] = None,
    venv: Annotated[str | None, _option("Virtual environment that env/setup.sh made.")] = None,
    data: Annotated[str | None, _option("Data set.")] = None,
    run_dir: Annotated[str | None, _option("Where checkpoints, metrics and summary go.")] = None,
    config: Annotated[str | None, _option("YAML file of settings.")] = None,
    settings: Annotated[
        list[str] | None, _option("A setting; may be repeated.", "--set", metavar="SECTION.KEY=VALUE")
    ] = None,
    sweep: Annotated[
        list[str] | None, _option("A setting for one task of a job array; repeat it.", metavar="SECTION.KEY=VALUE")
    ] = None,
    stage_data: Annotated[bool | None, _option("Copy the data set to node-local scratch first.")] = None,
    files: Annotated[list[str] | None, _option("import: a log; may be repeated.", "--file")] = None,
    benchmarks: Annotated[list[str] | None, _option("bench: one to run; may be repeated.", "--benchmark")] = None,
) -> None:
    """Print a job script made for your cluster: bagpipe jobs render --system slurm --nodes 8 > train.sbatch

    What is not given is as in the scripts under jobs/.
    """
    from bagpipe_hpc.jobs.description import describe
    from bagpipe_hpc.jobs.render import render as render_job

    given = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    print(render_job(describe(given)), end="")
