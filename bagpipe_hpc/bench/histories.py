"""Models that read histories, over the lengths of histories: speed, and the memory of every role.

Every batch has about the same number of elements, so that short and long histories differ only in what grows with a
length: with memory and time in proportion to the number of elements, all rows of a model have the same figures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.trainer.model_check import READING_SEQUENCES

WARM_UP, MARGIN = 3, 3  # iterations before and after the timed ones
SCALE = 0.1  # of the synthetic data: 100,000 users, 100,000 items


@dataclass(frozen=True)
class HistoriesCase:
    """What to measure.

    Args:
        lengths: Elements of a history on average; a history has up to twice as many.
        models: Names of models that read sequences.
        elements: Elements of a global batch, about.
        num_trainers: T.
        iterations: Timed iterations of a run.
    Raises:
        ConfigError: A value is out of range.
    """

    lengths: tuple[int, ...]
    models: tuple[str, ...]
    elements: int
    num_trainers: int
    iterations: int

    def __post_init__(self) -> None:
        for model in self.models:
            if model not in READING_SEQUENCES:
                raise ConfigError(f"--models has {model!r}; the models are {', '.join(READING_SEQUENCES)}")
        for length in self.lengths:
            if not 1 <= length <= 10_000:
                raise ConfigError(f"--lengths has {length}, but a length must be from 1 to 10,000")
        if not self.models or not self.lengths:
            raise ConfigError("--models and --lengths need at least one value each")
        for name, value in (("elements", self.elements), ("iterations", self.iterations)):
            if value < 1:
                raise ConfigError(f"--{name} is {value}, but must be at least 1")

    def batch_size(self, length: int) -> int:
        """Return the samples of a global batch."""
        return max(self.num_trainers, self.elements // length)

    def num_samples(self, length: int) -> int:
        """Return the samples of a data set."""
        return self.batch_size(length) * self.num_iterations

    @property
    def num_iterations(self) -> int:
        """The iterations of a run."""
        return WARM_UP + self.iterations + MARGIN

    def settings(self, model: str, length: int) -> list[str]:
        """Return the settings of a run."""
        return [
            f"model.name={model}",
            f"training.batch_size={self.batch_size(length)}",
            f"training.iterations={self.num_iterations}",
            "training.learning_rate=1e-6",  # the sums of din over long histories would diverge
            "training.threads=1",
            "evaluation.enabled=false",
            "checkpoint.enabled=false",
        ]

    def check(self, overrides: list[str]) -> None:
        """Raise ConfigError if a setting of a run is wrong."""
        from bagpipe_hpc.config import load_config

        for model in self.models:
            config: Config = load_config(None, [*self.settings(model, self.lengths[0]), *overrides])
            if config.model.name != model:
                raise ConfigError("--set model.name would replace the models; name them in --models")


@dataclass(frozen=True)
class HistoriesRun:
    """One run.

    Args:
        model: The model.
        length: Elements of a history on average.
        batch_size: Samples of a global batch.
        seconds: Of the timed iterations at the slowest trainer.
        iterations: How many there were.
        num_elements: Elements of their batches.
        peak_bytes: The largest memory of a process by role.
    """

    model: str
    length: int
    batch_size: int
    seconds: float
    iterations: int
    num_elements: int
    peak_bytes: dict[str, int]

    @property
    def samples_per_second(self) -> float:
        """Samples per second of all trainers together."""
        return self.batch_size * self.iterations / self.seconds

    @property
    def elements_per_second(self) -> float:
        """Elements per second of all trainers together."""
        return self.num_elements / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        speeds = {"samples_per_second": self.samples_per_second, "elements_per_second": self.elements_per_second}
        return {**asdict(self), **speeds}


def histories_table(runs: list[HistoriesRun]) -> Table:
    """Return the figures as a table."""
    heads = ("length", "B", "samples/s", "elements/s", "oracle MB", "server MB", "trainer MB")
    table = compact_table("models over the length of histories; MB is the largest memory of a process", "model", heads)
    for run in runs:
        table.add_row(
            run.model,
            f"{run.length:,}",
            f"{run.batch_size:,}",
            f"{run.samples_per_second:,.0f}",
            f"{run.elements_per_second:,.0f}",
            *(f"{run.peak_bytes[role] / 1e6:,.0f}" for role in ("oracle", "server", "trainer")),
        )
    return table
