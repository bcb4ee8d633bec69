"""Commands on job scripts: `jobs render`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bagpipe_hpc.jobs.description import JobDescription

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


class ImporterChoice(StrEnum):
    """Values of --importer."""

    CRITEO = "criteo"
    AVAZU = "avazu"
    TABLE = "table"


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
    qos: Annotated[str | None, _option("Quality of service (slurm).")] = None,
    constraint: Annotated[str | None, _option("Features that nodes must have (slurm, lsf, flux).")] = None,
    memory: Annotated[str | None, _option("Memory of each node, as 256G (slurm, pbs).")] = None,
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
    site_lines: Annotated[
        list[str] | None, _option("A shell command that runs first, as 'module load cuda'; repeat it.", "--site-line")
    ] = None,
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
    importer: Annotated[ImporterChoice | None, _option("import: what kind of files.")] = None,
    schema_file: Annotated[str | None, _option("import: what the columns of a table are.", "--schema")] = None,
    import_options: Annotated[
        list[str] | None, _option("import: a further argument of bagpipe import; repeat it.", "--import-option")
    ] = None,
    files: Annotated[list[str] | None, _option("import: a log; may be repeated.", "--file")] = None,
    benchmarks: Annotated[list[str] | None, _option("bench: one to run; may be repeated.", "--benchmark")] = None,
) -> None:
    """Print a job script made for your cluster: bagpipe jobs render --system slurm --nodes 8 > train.sbatch

    What is not given is as in the scripts under jobs/.
    """
    from bagpipe_hpc.jobs.description import describe
    from bagpipe_hpc.jobs.render import render as render_job

    given = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    job = describe(given)
    if job.is_training:
        check_settings(job)
    print(render_job(job), end="")


def check_settings(job: JobDescription) -> None:
    """Refuse settings that `bagpipe train` would refuse when the job has waited in the queue.

    A configuration file that does not exist here is not read: it may exist where the job runs.

    Raises:
        ConfigError: names every setting that is wrong, what it was given and what is allowed.
    """
    from pathlib import Path

    from bagpipe_hpc.config import load_config

    source = Path(job.config) if job.config and Path(job.config).exists() else None
    base = [f"roles.servers={job.servers}", f"training.threads={job.threads}", *job.settings]
    for task in job.sweep or (None,):
        config = load_config(source, base if task is None else [*base, task])
        if not config.dense_optimizer.is_plain_sgd:
            from bagpipe_hpc.trainer.dense_optimizer import check_dense_optimizer  # imports torch, which takes seconds

            check_dense_optimizer(config.dense_optimizer)
