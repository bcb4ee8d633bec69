"""What `bagpipe bench gpu` measures: its options, its cells and the settings of its jobs. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from bagpipe_hpc.config import Config, load_config
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.trainer.device.names import DeviceName

NUM_SERVERS = 1
PREFETCH_DEPTH = 4
SETTLING = 4  # iterations of a job, after its caches hold a whole window, that are not timed
TARGET_BATCH, TARGET_DIM = 16_384, 48  # the cell that is measured first
PROFILE = "criteo-kaggle"


@dataclass(frozen=True, order=True)
class Cell:
    """One size of the work.

    Args:
        batch_size: Samples of a global batch, B.
        dim: Columns of a row, D.
    """

    batch_size: int
    dim: int

    @property
    def title(self) -> str:
        """Its name for users."""
        return f"B = {self.batch_size:,}, D = {self.dim}"


MAX_SAMPLES = 100_000_000  # of the data set: 16 GB


@dataclass(frozen=True)
class GpuCase:
    """The options.

    Args:
        batch_sizes: Samples of a global batch.
        dims: Columns of a row.
        trainers: Numbers of trainers.
        scale: Multiplies the numbers of rows of Kaggle's tables.
        iterations: Timed iterations of a run.
        window: The lookahead window, L.
        repeats: The most repeats of a cell.
        minutes: The time for everything.
        device: Where trainers compute.
    Raises:
        ConfigError: an option is out of range.
    """

    batch_sizes: tuple[int, ...] = (4_096, 16_384, 65_536)
    dims: tuple[int, ...] = (16, 48, 128)
    trainers: tuple[int, ...] = (1, 2)
    scale: float = 1.0
    iterations: int = 40
    window: int = 16
    repeats: int = 3
    minutes: float = 8.0
    device: DeviceName = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "dims", "trainers"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                given = ",".join(map(str, values))
                raise ConfigError(f"{_option(name)} is {given!r}; give different numbers from 1 on, such as 1,2")
        for name in ("iterations", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_option(name)} is {getattr(self, name)}; give 1 or more")
        if self.window < PREFETCH_DEPTH:
            raise ConfigError(f"--window is {self.window}; give {PREFETCH_DEPTH} or more")
        for name in ("scale", "minutes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{_option(name)} is {getattr(self, name):g}; give a number above 0")
        if self.num_samples > MAX_SAMPLES:
            raise ConfigError(
                f"--batch-sizes {max(self.batch_sizes):,} and --window {self.window:,} need {self.num_samples:,} "
                f"samples of data, but at most {MAX_SAMPLES:,} are made; lower one of them"
            )
        if min(self.batch_sizes) < max(self.trainers):
            raise ConfigError(
                f"--batch-sizes has {min(self.batch_sizes)}, --trainers has {max(self.trainers)}: give batches of at "
                "least one sample for each trainer"
            )

    @property
    def cells(self) -> list[Cell]:
        """All sizes, those nearest to B = 16,384 and D = 48 first: if time is short, the others are left out."""
        cells = [Cell(batch_size, dim) for batch_size in self.batch_sizes for dim in self.dims]
        return sorted(cells, key=_distance)

    @property
    def num_samples(self) -> int:
        """Samples of the data set: more than a lookahead window, so that rows leave caches and come back."""
        return (5 * (self.window + PREFETCH_DEPTH) // 4) * max(self.batch_sizes)

    @property
    def begin(self) -> int:
        """The number of iterations of a job before its timed ones, in which its caches fill."""
        return self.window + PREFETCH_DEPTH + SETTLING

    @property
    def end(self) -> int:
        """The number of iterations of a job up to the last timed one."""
        return self.begin + self.iterations

    def settings(self, cell: Cell, trainers: int, cache_rows: int) -> list[str]:
        """Return the settings of a job. After the timed iterations comes a window, while caches empty.

        Args:
            cell: The size.
            trainers: The number of trainers.
            cache_rows: Slots of the cache of each trainer.
        """
        return [
            *model_settings(cell),
            f"training.iterations={self.end + self.window}",
            "training.epochs=1000000000",
            f"training.device={self.device}",
            f"roles.servers={NUM_SERVERS}",
            f"lookahead.window={self.window}",
            f"lookahead.prefetch_depth={PREFETCH_DEPTH}",
            f"cache.rows={cache_rows}",
            *(["dense.backend=mpi"] if trainers > 1 else []),
            "evaluation.enabled=false",
            "checkpoint.enabled=false",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all options, for files and messages."""
        return asdict(self)

    @staticmethod
    def of_json(options: dict[str, Any]) -> GpuCase:
        """Return the case with these options."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
        }
        return GpuCase(**values)


# Without a GPU the command shows that it works, and finds what is slow on the host.
CPU_CASE = GpuCase(batch_sizes=(1_024, 4_096), dims=(16, 48), scale=0.01, iterations=10, window=8, repeats=2)


def case_of(options: dict[str, Any], *, on_gpu: bool) -> GpuCase:
    """Return the case with the options that are given; None stands for the default, which depends on the device.

    Raises:
        ConfigError: an option is out of range.
    """
    defaults = GpuCase() if on_gpu else CPU_CASE
    values = {field.name: getattr(defaults, field.name) for field in fields(GpuCase)}
    return GpuCase(**{**values, **{name: value for name, value in options.items() if value is not None}})


def numbers_of(option: str, text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of a list that is separated by commas; None: the option is not given.

    Raises:
        ConfigError: the text is no such list.
    """
    if text is None:
        return None
    try:
        return tuple(int(part.replace("_", "")) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} is {text!r}; give whole numbers, separated by commas, such as 1,2") from None


def model_settings(cell: Cell) -> list[str]:
    """Return the settings of the model, which are those of `bagpipe bench peers`."""
    return [
        f"training.batch_size={cell.batch_size}",
        "training.learning_rate=0.1",
        f"model.embedding_dim={cell.dim}",
        "model.bottom_mlp=[512,256,64]",
        "model.top_mlp=[512,256]",
    ]


def model_config(cell: Cell) -> Config:
    """Return the configuration whose model everything trains."""
    return load_config(None, model_settings(cell))


def _distance(cell: Cell) -> float:
    return abs(math.log2(cell.batch_size / TARGET_BATCH)) + abs(math.log2(cell.dim / TARGET_DIM))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
