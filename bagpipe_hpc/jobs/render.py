"""A job script made from a description: directives of the batch system, a part to edit, a part that works."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType

from bagpipe_hpc.jobs import flux, lsf, pbs, shell, slurm
from bagpipe_hpc.jobs.description import JobDescription

Variable = tuple[str, object, str]  # name, value, comment

_DIRECTIVES: Mapping[str, Callable[[JobDescription], list[str]]] = MappingProxyType(
    {"slurm": slurm.directives, "pbs": pbs.directives, "lsf": lsf.directives, "flux": flux.directives}
)
_BODY: Mapping[str, Callable[[JobDescription], list[str]]] = MappingProxyType(
    {"slurm": slurm.body, "pbs": pbs.body, "lsf": lsf.body, "flux": flux.body}
)
_VARIABLES: Mapping[str, Callable[[JobDescription], list[Variable]]] = MappingProxyType(
    {"pbs": pbs.variables, "flux": flux.variables}
)
_SUBMIT = MappingProxyType({"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub <", "flux": "flux batch"})
_SUFFIX = MappingProxyType({"slurm": "sbatch", "pbs": "pbs", "lsf": "lsf", "flux": "flux"})
_PURPOSE = MappingProxyType(
    {
        "train": "Train with oracle, embedding servers and trainers in one MPI job.",
        "train-mpirun": "Train with ranks that mpirun starts, for an MPI that srun cannot start.",
        "train-het": "Train on two kinds of nodes in one MPI job: oracle and servers, trainers.",
        "import": "Make a data set from the files of a click log, on all ranks of a job.",
        "bench": "Check and measure the nodes of a job.",
    }
)
_EDIT = "# -- edit this part (docs/hpc.md) " + "-" * 68
_WORK = "# -- nothing to edit from here on " + "-" * 68


def render(job: JobDescription) -> str:
    """Return the whole script. Pure. Every value is checked by the description or quoted for the shell."""
    head = ["#!/usr/bin/env bash", f"# {_PURPOSE[job.template]}", f"#   {_SUBMIT[job.system]} {file_name(job)}"]
    edited = [_EDIT, *_DIRECTIVES[job.system](job), "", *_site_lines(job), "", *map(_assignment, _variables(job))]
    return "\n".join([*head, *edited, "", _WORK, *_work(job)]).rstrip("\n") + "\n"


def _site_lines(job: JobDescription) -> list[str]:
    return ["# Commands that your site needs, for example `module load`:", *job.site_lines]


def file_name(job: JobDescription) -> str:
    """Return the name of the script in jobs/."""
    return f"{job.template}.{_SUFFIX[job.system]}"


def _variables(job: JobDescription) -> list[Variable]:
    environment = ("venv", job.venv, "virtual environment that env/setup.sh made")
    if job.template == "import":
        return [
            environment,
            ("importer", job.importer, "criteo, avazu or table"),
            ("schema_file", job.schema_file or "", "for the importer table: describes the columns (docs/data.md)"),
            ("files", job.files, "click logs, plain or gzip, in time order; for table: CSV, TSV and Parquet"),
            ("data", job.data, "directory of the data set to make"),
            ("import_options", job.import_options, "further arguments of bagpipe import, such as --min-count 10"),
        ]
    layout = [
        ("servers", job.servers, "number of embedding servers"),
        ("trainers_per_node", job.num_trainers_per_node, "trainers of each node, one for each GPU"),
        ("threads", job.threads, "cores of each rank"),
    ]
    if job.template == "train-het":
        del layout[1]
    if job.blocks:
        layout.append(("blocks", job.blocks, "training.blocks, a power of two that the number of trainers divides"))
    if job.template == "bench":
        return [
            environment,
            ("benchmarks", job.benchmarks, "some of doctor, oracle, rma, ladder; only ladder needs data"),
            ("data", job.data, "data set for ladder"),
            ("run_dir", job.run_dir, "directory for the figures"),
            *layout,
        ]
    sweep = [("sweep", job.sweep, "one setting for each task of the array")] if job.sweep else []
    return [
        environment,
        ("data", job.data, "directory of the data set"),
        ("stage_data", str(job.stage_data).lower(), "true: copy the data set to node-local scratch first"),
        ("run_dir", job.run_dir, "directory for checkpoints, metrics and the summary"),
        ("config", job.config or "", "YAML file with settings, or empty"),
        ("settings", job.settings, "settings that override the file: section.key=value"),
        *sweep,
        *layout,
        ("checkpoint_every", job.checkpoint_every, "iterations"),
        ("max_restarts", job.max_restarts, "restarts without a new checkpoint before the job gives up"),
        *(_VARIABLES[job.system](job) if job.system in _VARIABLES else []),
    ]


def _assignment(variable: Variable) -> str:
    name, value, comment = variable
    text = f"({shlex.join(value)})" if isinstance(value, tuple) else shlex.quote(str(value)) if value != "" else ""
    return f"{name}={text}".ljust(32) + f"  # {comment}"


def _work(job: JobDescription) -> list[str]:
    if job.template == "import":
        return [shell.BEGIN, *_BODY[job.system](job), shell.ENVIRONMENT, shell.IMPORT]
    if job.template == "bench":
        return [shell.BEGIN, *_BODY[job.system](job), shell.THREADS + shell.ENVIRONMENT, shell.BENCH]
    return [shell.BEGIN, *_BODY[job.system](job), shell.THREADS + shell.ENVIRONMENT, shell.TRAIN]
