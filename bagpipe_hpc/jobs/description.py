"""The description from which a job script is made. It checks all values that the script contains or quotes."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.fault_words import in_words, shown
from bagpipe_hpc.topology import trainers_for

System = Literal["slurm", "pbs", "lsf", "flux"]
Template = Literal["train", "train-mpirun", "train-het", "import", "bench"]
Importer = Literal["criteo", "avazu", "table"]
Benchmark = Literal["doctor", "oracle", "rma", "ladder"]

# A name is used in directives, which no shell reads and nothing quotes: it has no spaces and no special characters.
# Paths and settings are quoted. They must be printable, so that the script stays readable.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_PATH = r"^[^-~\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
_SETTING = r"^[a-z_]+(\.[^=\x00-\x1f\x7f]+)?=[^\x00-\x1f\x7f]+$"  # a key may contain the name of a table
_LINE = r"^[^\x00-\x1f\x7f]+$"
_CONSTRAINT = r"^[A-Za-z0-9(\[][A-Za-z0-9_.:,=*&|!()\[\]-]{0,255}$"  # no spaces and no quotes
_MEMORY = r"^[1-9][0-9]{0,8}[KMGT]$"
_DURATION = r"^[0-9]{1,3}:[0-5][0-9]:[0-5][0-9]$"
_ALLOWED = {
    _NAME: "give 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    _PATH: "give a path of printable characters that does not begin with '-' or '~'",
    _SETTING: "give section.key=value, such as training.epochs=3",
    _LINE: "give one line of printable characters",
    _CONSTRAINT: "give an expression of letters, digits and _.:,=*&|!()[]- without spaces, such as a100&nvlink",
    _MEMORY: "give a number and K, M, G or T, such as 256G",
    _DURATION: "give HH:MM:SS, such as 04:00:00",
}

Name = Annotated[str, StringConstraints(pattern=_NAME)]
Path = Annotated[str, StringConstraints(pattern=_PATH)]
Setting = Annotated[str, StringConstraints(pattern=_SETTING)]
Line = Annotated[str, StringConstraints(pattern=_LINE)]
Constraint = Annotated[str, StringConstraints(pattern=_CONSTRAINT)]
Memory = Annotated[str, StringConstraints(pattern=_MEMORY)]
Duration = Annotated[str, StringConstraints(pattern=_DURATION)]

_ONLY_FOR = {"qos": ("slurm",), "constraint": ("slurm", "lsf", "flux"), "memory": ("slurm", "pbs")}


class JobDescription(BaseModel):
    """A job on a cluster, the same for every batch system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: System = "slurm"
    template: Template = "train"
    mpi: Literal["openmpi", "mpich"] = "openmpi"

    name: Name = "bagpipe"
    account: Name | None = None
    queue: Name | None = None  # Slurm's partition
    qos: Name | None = None  # slurm: quality of service
    constraint: Constraint | None = None  # slurm, lsf, flux: features that the nodes must have
    memory: Memory | None = None  # slurm, pbs: memory of each node; None: the site's default
    time_limit: Duration = "04:00:00"
    warning_seconds: int = Field(300, ge=60)  # time before the time limit for the last checkpoint
    max_restarts: int = Field(5, ge=0)  # restarts without a new checkpoint before the job gives up

    nodes: int = Field(4, ge=1, le=100_000)  # train-het: the nodes of the trainers
    min_nodes: int | None = Field(None, ge=1)  # enough nodes after others have failed; None: all are needed
    server_nodes: int = Field(1, ge=1, le=100_000)  # train-het: the nodes of oracle and servers
    servers: int = Field(3, ge=1, le=100_000)
    gpus_per_node: int = Field(4, ge=0, le=64)
    trainers_per_node: int | None = Field(None, ge=1, le=1024)  # None: one per GPU, or 1 without GPUs
    blocks: int | None = Field(None, ge=1)  # training.blocks, if the job may change its number of trainers
    threads: int = Field(8, ge=1, le=1024)  # cores of each rank

    site_lines: tuple[Line, ...] = ()  # shell commands that run first, such as `module load`
    venv: Path = ".venv"
    data: Path = "clicks"
    run_dir: Path = "runs/bagpipe"
    config: Path | None = None
    settings: tuple[Setting, ...] = ()
    sweep: tuple[Setting, ...] = ()  # one setting for each task of a job array
    checkpoint_every: int = Field(1000, ge=1)  # iterations between two checkpoints
    stage_data: bool = False
    importer: Importer = "criteo"  # import: kind of the files
    schema_file: Path | None = None  # import: description of the columns, for the importer `table`
    import_options: tuple[Line, ...] = ()  # import: further arguments of `bagpipe import`
    files: tuple[Path, ...] = Field(("train.txt.gz",), min_length=1)  # import: files to import
    benchmarks: tuple[Benchmark, ...] = Field(("doctor", "oracle", "rma"), min_length=1)  # bench: what to run

    @model_validator(mode="after")
    def _is_possible(self) -> JobDescription:
        if self.system != "slurm" and self.template != "train":
            raise ValueError(f"{self.template} exists only for slurm; {self.system} has train")
        if self.sweep and (self.system != "slurm" or not self.is_training):
            raise ValueError("a sweep needs slurm and a template that trains")
        if self.min_nodes and (self.system != "slurm" or self.template not in ("train", "train-mpirun")):
            raise ValueError(
                "min_nodes exists only for slurm's train and train-mpirun; for another one, leave it out, and after a "
                "node has failed submit the script with fewer nodes"
            )
        for name, systems in _ONLY_FOR.items():
            if getattr(self, name) is not None and self.system not in systems:
                raise ValueError(
                    f"{name} exists only for {' and '.join(systems)}; remove it, and edit the first part of the "
                    f"script as {self.system} needs it"
                )
        if self.template == "import" and (self.importer == "table") != (self.schema_file is not None):
            raise ValueError(
                f"importer is {self.importer}, schema_file {self.schema_file or 'not given'}: give a schema file "
                "if, and only if, the importer is table"
            )
        if self.min_nodes and self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes is {self.min_nodes}, nodes {self.nodes}: lower min_nodes or raise nodes")
        if self.blocks:
            if not self.is_training:
                raise ValueError(f"{self.template} does not train: blocks exists only for templates that do")
            self.require_fit(self.blocks)
        if self.warning_seconds >= self.time_limit_seconds:
            raise ValueError(
                f"warning_seconds is {self.warning_seconds}, time_limit {self.time_limit}: the warning must come "
                "within the time limit; lower warning_seconds or raise time_limit"
            )
        return self

    def require_fit(self, blocks: int) -> None:
        """Raise ValueError unless the trainers of all nodes can compute equally many blocks (training.blocks)."""
        num_trainers = self.nodes * self.num_trainers_per_node
        if blocks & (blocks - 1):
            below = 1 << (blocks.bit_length() - 1)
            raise ValueError(f"blocks is {blocks}: give a power of two, such as {below} or {2 * below}")
        if blocks % num_trainers:
            raise ValueError(
                f"blocks is {blocks}, and all nodes together have {num_trainers} trainer(s), but the number of "
                f"trainers must divide it: choose nodes and trainers_per_node for one of {trainers_for(blocks)}, or "
                "other blocks"
            )

    @property
    def is_training(self) -> bool:
        """Whether the job trains, so that it may be started again."""
        return self.template.startswith("train")

    @property
    def num_trainers_per_node(self) -> int:
        """Number of trainers on each of the nodes."""
        return self.trainers_per_node or self.gpus_per_node or 1

    @property
    def num_ranks(self) -> int:
        """Number of ranks on all nodes: oracle, servers and trainers."""
        return 1 + self.servers + self.nodes * self.num_trainers_per_node

    @property
    def max_ranks_per_node(self) -> int:
        """Number of ranks on the fullest node, if they are placed on the nodes one at a time."""
        return self.num_trainers_per_node - (-(1 + self.servers) // (self.min_nodes or self.nodes))

    @property
    def time_limit_seconds(self) -> int:
        """The time limit in seconds."""
        hours, minutes, seconds = map(int, self.time_limit.split(":"))
        return 3600 * hours + 60 * minutes + seconds


def describe(fields: dict[str, object]) -> JobDescription:
    """Return the description with these fields. The other fields have their defaults.

    Raises:
        ConfigError: Names every wrong field, the value given and the values allowed.
    """
    try:
        return JobDescription.model_validate(fields)
    except ValidationError as error:
        raise ConfigError("job script: " + "; ".join(map(_explain, error.errors()))) from None


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"]))
    pattern = str(problem.get("ctx", {}).get("pattern"))
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, JobDescription.model_fields, n=1)
        return f"unknown field {name!r}" + (f" (did you mean {close[0]}?)" if close else "")
    message = _ALLOWED.get(pattern) or in_words(problem)
    return f"{name} = {shown(problem['input'])}: {message}" if name else message
