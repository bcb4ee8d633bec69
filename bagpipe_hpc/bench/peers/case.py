"""What all systems train: samples, model, optimizer, numbers of iterations. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bagpipe_hpc.config import Config, load_config
from bagpipe_hpc.data.dataset import Dataset, require_labels
from bagpipe_hpc.errors import ConfigError, TopologyError

TAIL = 4  # iterations after the timed ones, so that no pipeline runs dry while it is timed


@dataclass(frozen=True)
class PeersCase:
    """The work that every system does, from its initial parameters, in every repeat.

    Args:
        data: Directory of the data set. All samples have one id in each table.
        num_ranks: The number of ranks: 1 + servers + trainers.
        servers: The number of embedding servers of bagpipe_hpc, S.
        batch_size: Samples of a global batch, B.
        embedding_dim: Columns of a row, D.
        bottom_mlp: Sizes of the hidden layers of DLRM's bottom MLP.
        top_mlp: Sizes of the hidden layers of DLRM's top MLP.
        learning_rate: Learning rate of SGD, for rows and dense parameters.
        threads: Threads of each trainer.
        warm_up: Iterations before the timed ones.
        iterations: Timed iterations of a repeat.
        margin: Iterations of bagpipe_hpc before its timed ones, and again after them. 0: `warm_up` before, and as many
            after as the peers have. Peers have no caches, which fill at the beginning and empty at the end.
        repeats: How often every system trains, after one repeat that does not count.
    Raises:
        ConfigError: An option is out of range or contradicts another; names both.
        TopologyError: No rank is left for a trainer.
    """

    data: Path
    num_ranks: int
    servers: int = 1
    batch_size: int = 4096
    embedding_dim: int = 48
    bottom_mlp: tuple[int, ...] = (512, 256, 64)
    top_mlp: tuple[int, ...] = (512, 256)
    learning_rate: float = 0.1
    threads: int = 1
    warm_up: int = 4
    iterations: int = 10
    margin: int = 0
    repeats: int = 5

    def __post_init__(self) -> None:
        for name in ("servers", "batch_size", "embedding_dim", "threads", "warm_up", "iterations", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        if self.margin and self.margin < self.warm_up:
            raise ConfigError(
                f"--margin is {self.margin}, but --warm-up is {self.warm_up}; give 0, or at least as many"
            )
        if self.num_trainers < 1:
            raise TopologyError(
                f"{self.num_ranks} rank(s) leave no trainer beside 1 oracle and {self.servers} server(s); start "
                f"`mpirun -n {self.servers + 3}` or more for two trainers"
            )
        if self.batch_size % self.num_trainers:
            raise ConfigError(
                f"--batch-size is {self.batch_size}, but the peers need shares of equal size for {self.num_trainers} "
                f"trainers; give a multiple of {self.num_trainers}"
            )

    @property
    def num_trainers(self) -> int:
        """The number of trainers, T."""
        return self.num_ranks - 1 - self.servers

    @property
    def num_trained(self) -> int:
        """The number of iterations after which losses are compared."""
        return self.warm_up + self.iterations

    @property
    def num_batches(self) -> int:
        """How many batches a repeat of a peer reads."""
        return self.num_trained + TAIL

    @property
    def own_warm_up(self) -> int:
        """The number of iterations of bagpipe_hpc before its timed ones."""
        return self.margin or self.warm_up

    @property
    def own_tail(self) -> int:
        """The number of iterations of bagpipe_hpc after its timed ones."""
        return max(self.margin, TAIL)

    @property
    def num_own_batches(self) -> int:
        """How many batches a repeat of bagpipe_hpc reads, at least as many as that of a peer."""
        return self.own_warm_up + self.iterations + self.own_tail

    def settings(self, extra: tuple[str, ...] = ()) -> list[str]:
        """Return the settings of a job of bagpipe_hpc.

        Args:
            extra: Settings of one system.
        """
        return [
            f"training.batch_size={self.batch_size}",
            f"training.iterations={self.num_own_batches}",
            f"training.learning_rate={self.learning_rate}",
            f"training.threads={self.threads}",
            f"model.embedding_dim={self.embedding_dim}",
            f"model.bottom_mlp={list(self.bottom_mlp)}",
            f"model.top_mlp={list(self.top_mlp)}",
            f"roles.servers={self.servers}",
            "dense.backend=mpi",  # Horovod's thread would stay and slow down the peers after it
            "evaluation.enabled=false",
            "checkpoint.enabled=false",
            *extra,
        ]

    def config(self) -> Config:
        """Return the configuration whose model all systems train."""
        return load_config(None, self.settings())

    def check_samples(self, dataset: Dataset) -> None:
        """Check that the peers can train on a data set.

        Raises:
            ConfigError: It has features that the peers do not know, or too few samples.
            DatasetError: Its samples have no labels.
        """
        require_labels(dataset, "`bagpipe bench peers`")
        if not dataset.schema.is_plain:
            raise ConfigError(
                f"{dataset.path}: has ragged features, dynamic tables or tables that features share, but the peers "
                "train on one row per sample and table; give a data set of one-hot features"
            )
        if not dataset.schema.has_plain_labels:
            raise ConfigError(
                f"{dataset.path}: has weights, or other labels than a single one of 0 and 1, which is all that the "
                "peers learn; give another data set"
            )
        num_full = dataset.train.num_samples // self.batch_size
        if num_full < self.num_own_batches:
            raise ConfigError(
                f"{dataset.path}: has {num_full} full training batches of {self.batch_size} samples, but --iterations "
                f"{self.iterations}, with {self.own_warm_up} before and {self.own_tail} after them, need "
                f"{self.num_own_batches}; give fewer iterations, smaller batches or more samples"
            )

    def to_json(self) -> dict[str, Any]:
        """Return all options, for files and messages."""
        return {**asdict(self), "data": str(self.data)}

    @staticmethod
    def of_json(options: dict[str, Any]) -> PeersCase:
        """Return the case with these options."""
        sizes = {name: tuple(options[name]) for name in ("bottom_mlp", "top_mlp")}
        return PeersCase(**{**options, **sizes, "data": Path(options["data"])})
