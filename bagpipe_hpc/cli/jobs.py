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
    """Exist, so that typer requires the command's name although there is only one command."""


@app.command()
def render(
    context: typer.Context,  # its parameters, the rest of this list, are the fields of a description
    system: Annotated[SystemChoice | None, _option("Batch system.")] = None,
    template: Annotated[TemplateChoice | None, _option("What the job does.")] = None,
    mpi: Annotated[MpiChoice | None, _option("MPI that the environment was built with.")] = None,
    name: Annotated[str | None, _option("Name of the job.")] = None,
    account: Annotated[str | None, _option("Account that pays for the job.")] = None,
    queue: Annotated[str | None, _option("Queue or partition.")] = None,
    qos: Annotated[str | None, _option("Quality of service (slurm).")] = None,
    constraint: Annotated[str | None, _option("Features that the nodes must have (slurm, lsf, flux).")] = None,
    memory: Annotated[str | None, _option("Memory of each node, such as 256G (slurm, pbs).")] = None,
    time_limit: Annotated[
        str | None, _option("Time limit of one run; the next run continues the job.", metavar="HH:MM:SS")
    ] = None,
    warning_seconds: Annotated[int | None, _option("Seconds before the time limit for the last checkpoint.")] = None,
    checkpoint_every: Annotated[int | None, _option("Iterations between two checkpoints.")] = None,
    max_restarts: Annotated[int | None, _option("Give up after this many restarts without progress.")] = None,
    nodes: Annotated[int | None, _option("Number of nodes; for train-het, of the trainers' nodes.")] = None,
    min_nodes: Annotated[int | None, _option("After nodes fail, go on with no fewer than this many.")] = None,
    server_nodes: Annotated[int | None, _option("train-het: number of nodes of oracle and servers.")] = None,
    servers: Annotated[int | None, _option("Number of embedding servers.")] = None,
    gpus_per_node: Annotated[int | None, _option("GPUs of each node; 0: train on CPUs.")] = None,
    trainers_per_node: Annotated[int | None, _option("Trainers of each node; default: one per GPU.")] = None,
    blocks: Annotated[
        int | None, _option("training.blocks; on fewer nodes the job starts as many trainers as divide it.")
    ] = None,
    threads: Annotated[int | None, _option("Cores of each rank; for import: ranks of each node.")] = None,
    site_lines: Annotated[
        list[str] | None,
        _option("Shell command that runs first, such as 'module load gcc'; may be repeated.", "--site-line"),
    ] = None,
    venv: Annotated[str | None, _option("Virtual environment that env/setup.sh made.")] = None,
    data: Annotated[str | None, _option("Directory of the data set.")] = None,
    run_dir: Annotated[str | None, _option("Directory for checkpoints, metrics and the summary.")] = None,
    config: Annotated[str | None, _option("YAML file with settings.")] = None,
    settings: Annotated[
        list[str] | None, _option("A setting; may be repeated.", "--set", metavar="SECTION.KEY=VALUE")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        _option("A setting for one task of a job array; may be repeated.", metavar="SECTION.KEY=VALUE"),
    ] = None,
    stage_data: Annotated[bool | None, _option("Copy the data set to node-local scratch first.")] = None,
    importer: Annotated[ImporterChoice | None, _option("import: kind of the files.")] = None,
    schema_file: Annotated[str | None, _option("import: YAML file that describes the columns.", "--schema")] = None,
    import_options: Annotated[
        list[str] | None,
        _option("import: a further argument of bagpipe import; may be repeated.", "--import-option"),
    ] = None,
    files: Annotated[list[str] | None, _option("import: a file to import; may be repeated.", "--file")] = None,
    benchmarks: Annotated[
        list[str] | None, _option("bench: a benchmark to run; may be repeated.", "--benchmark")
    ] = None,
) -> None:
    """Print a job script for your cluster: bagpipe jobs render --system slurm --nodes 8 > train.sbatch

    Options that are not given have the values of the scripts in jobs/.
    """
    from bagpipe_hpc.jobs.description import describe
    from bagpipe_hpc.jobs.render import render as render_job

    given = {name: value for name, value in context.params.items() if value not in (None, [], ())}
    job = describe(given)
    if job.is_training:
        check_settings(job)
    print(render_job(job), end="")


def check_settings(job: JobDescription) -> None:
    """Refuse settings that `bagpipe train` would refuse, before the job waits in a queue.

    If the configuration file does not exist here, it is not read: it may exist where the job runs.

    Raises:
        ConfigError: Names every wrong setting, the value given and the values allowed.
    """
    from pathlib import Path

    from bagpipe_hpc.config import load_config
    from bagpipe_hpc.errors import ConfigError

    source = Path(job.config) if job.config and Path(job.config).exists() else None
    given = [f"training.blocks={job.blocks}"] if job.blocks else []
    base = [f"roles.servers={job.servers}", f"training.threads={job.threads}", *job.settings, *given]
    for task in job.sweep or (None,):
        config = load_config(source, base if task is None else [*base, task])
        blocks = config.training.blocks
        if blocks != job.blocks and job.blocks:
            raise ConfigError(f"blocks is {job.blocks}, but the sweep sets training.blocks to {blocks}: leave one out")
        if blocks and job.min_nodes and not job.blocks:
            raise ConfigError(
                f"training.blocks is {blocks}, and with min_nodes the script chooses the number of trainers: give "
                f"--blocks {blocks}, so that it chooses one that divides the blocks"
            )
        if blocks:
            try:
                job.require_fit(blocks)
            except ValueError as error:
                raise ConfigError(f"training.{error}") from None
        if not config.dense_optimizer.is_plain_sgd:
            from bagpipe_hpc.trainer.dense_optimizer import check_dense_optimizer  # imports torch, which takes seconds

            check_dense_optimizer(config.dense_optimizer)
