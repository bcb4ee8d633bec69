"""What to simulate."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.network import Compute, Network
from bagpipe_hpc.simulation.traffic import FLOAT_BYTES

DESIGNS = ("lookahead", "replicated", "hot-set", "staleness", "all-to-all", "no-cache")
EXTENSIONS = ("locality", "16-bit-wire", "hot-replicas", "shared-links", "node-caches")  # of lookahead
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class CacheSize:
    """A number of rows, or a share of the rows that occur in the stream."""

    rows: int | None = None
    share: float = 0.0

    def of(self, num_keys: int) -> int:
        """Return the number of rows, at least 1, if so many rows occur."""
        return self.rows if self.rows is not None else max(1, round(self.share * num_keys))


@dataclass(frozen=True)
class Case:
    """What to simulate.

    Args:
        data: The data set.
        networks: Links to compare.
        trainers: Numbers of trainers.
        batch: Samples of a batch: of all trainers together or, if `is_weak`, of each trainer.
        is_weak: Whether the batch grows with the number of trainers.
        cache_sizes: Sizes of the one cache of the policies.
        trainer_cache: Size of the cache of each trainer.
        window: L.
        prefetch_depth: P.
        policies: Policies of libCacheSim.
        designs: Some of DESIGNS and EXTENSIONS.
        staleness: Bounds of the bounded-staleness caches.
        dim: Columns of a row, float32.
        trainers_per_server: How many trainers share an embedding server.
        trainers_per_node: How many trainers share a link in the designs `shared-links` and `node-caches`.
        compute: What trainers do besides moving rows.
        samples: Simulate at most this many samples; None: all.
        epochs: How often the samples are passed over.
        similar: Rows per approximate key.
        refresh: Factors of auto-refresh.
    Raises:
        ConfigError: a number is out of range.
    """

    data: Path
    networks: tuple[Network, ...]
    trainers: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    batch: int = 16_384
    is_weak: bool = False
    cache_sizes: tuple[CacheSize, ...] = (CacheSize(share=0.1),)
    trainer_cache: CacheSize = field(default_factory=lambda: CacheSize(share=0.1))
    window: int = 200
    prefetch_depth: int = 4
    policies: tuple[str, ...] = ()
    designs: tuple[str, ...] = DESIGNS
    staleness: tuple[int, ...] = (0, 10, 100)
    dim: int = 64
    trainers_per_server: int = 1
    trainers_per_node: int = 8
    compute: Compute = field(default_factory=lambda: Compute(1e-6))
    samples: int | None = None
    epochs: int = 1
    similar: int = 4
    refresh: tuple[float, ...] = (1.2, 1.5, 2.0, 4.0)

    def __post_init__(self) -> None:
        for name in ("batch", "dim", "trainers_per_server", "trainers_per_node", "epochs", "similar"):
            _at_least(1, name, getattr(self, name))
        _at_least(0, "window", self.window)
        _at_least(0, "prefetch_depth", self.prefetch_depth)
        if self.samples is not None:
            _at_least(1, "samples", self.samples)
        for factor in self.refresh:
            if not 1 <= factor <= 1000:
                raise ConfigError(f"--refresh has {factor:g}; factors must lie between 1 and 1000")
        if self.compute.seconds_per_sample <= 0:
            raise ConfigError("--compute-microseconds must be above 0")
        if not self.is_weak and max(self.trainers) > self.batch:
            raise ConfigError(
                f"--trainers has {max(self.trainers):,}, but a batch has {self.batch:,} samples, at least one for each "
                "trainer; raise --batch or give --scaling weak"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, or of its gradient."""
        return FLOAT_BYTES * self.dim

    def batch_size(self, num_trainers: int) -> int:
        """Return the samples of a batch of all trainers together."""
        return self.batch * num_trainers if self.is_weak else self.batch

    def num_servers(self, num_trainers: int) -> int:
        """Return S."""
        return -(-num_trainers // self.trainers_per_server)


def parse_designs(text: str) -> tuple[str, ...]:
    """Return the designs of a list with commas; empty: DESIGNS.

    Raises:
        ConfigError: a design is unknown.
    """
    names = [name for name in text.replace(" ", "").split(",") if name]
    allowed = DESIGNS + EXTENSIONS
    for name in names:
        if name not in allowed:
            raise ConfigError(f"--designs has '{name}'; allowed: {', '.join(allowed)}")
    return tuple(design for design in allowed if design in names) or DESIGNS


def parse_numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """Return the whole numbers of a list with commas, ascending and each once.

    Raises:
        ConfigError: a number is malformed or below `least`, or there is none.
    """
    words = [word for word in text.replace(" ", "").split(",") if word]
    wrong = [word for word in words if not word.isdecimal() or int(word) < least]
    if wrong or not words:
        found = f"has '{wrong[0]}'" if wrong else "is empty"
        raise ConfigError(f"{option} {found}; write whole numbers from {least} on with commas between them")
    return tuple(sorted({int(word) for word in words}))


def parse_factors(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of a list with commas. Raises ConfigError if one of them is malformed."""
    try:
        return tuple(float(word) for word in text.replace(" ", "").split(",") if word)
    except ValueError:
        raise ConfigError(f"{option} is '{text}'; write numbers with commas between them, such as 1.5,2") from None


def parse_sizes(option: str, text: str) -> tuple[CacheSize, ...]:
    """Return the cache sizes of a list with commas, such as "5000,10%".

    Raises:
        ConfigError: a size is malformed, 0 or above 100 %, or there is none.
    """
    sizes = []
    for word in (word for word in text.replace(" ", "").split(",") if word):
        found = _SIZE.fullmatch(word)
        value = float(found[1]) if found else 0.0
        if not found or value <= 0 or (found[2] and value > 100) or (not found[2] and value != int(value)):
            raise ConfigError(f"{option} has '{word}'; write numbers of rows from 1 on, or shares up to 100%")
        sizes.append(CacheSize(share=value / 100) if found[2] else CacheSize(int(value)))
    if not sizes:
        raise ConfigError(f"{option} is empty; write sizes such as 1%,10%,50000")
    return tuple(sizes)


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ConfigError(f"--{name.replace('_', '-')} is {value}; at least {least} is needed")
