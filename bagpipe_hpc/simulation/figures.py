"""The results of a simulation, as rows of tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bagpipe_hpc.errors import ConfigError


@dataclass(frozen=True)
class PolicyFigures:
    """One policy with one cache that the whole system shares.

    Args:
        policy: Its name.
        cache_rows: Rows that fit.
        cache_share: The same as a share of the rows that occur.
        accesses: Unique rows of all batches.
        hits: Those that were in the cache.
        hit_ratio: hits / accesses.
        rows_moved_per_iteration: Rows that come in and, sooner or later, go out again.
    """

    policy: str
    cache_rows: int
    cache_share: float
    accesses: int
    hits: float
    hit_ratio: float
    rows_moved_per_iteration: float


@dataclass(frozen=True)
class SystemFigures:
    """One design with T trainers in one network. Numbers of rows and bytes are per iteration.

    Args:
        design: Its name.
        trainers: T.
        network: Its name.
        batch: Samples per batch.
        iterations: How many were played.
        local_ratio: Share of the accesses that found their row in the memory of the trainer.
        rows_fetched, rows_written, rows_exchanged: As in Traffic.
        moved_share: Rows moved, divided by those of parameter servers without caches.
        bytes_per_trainer: Received and sent, mean over trainers.
        critical_bytes: Of the busiest trainer in its busier direction, before or after which nothing is computed.
        milliseconds: Of an iteration.
        efficiency: Share of the time in which trainers compute.
        staleness, largest_staleness: Updates of other trainers that a row lacks when it is read.
        held_back: The most own updates that a trainer sends at a time.
        cache_rows: The most rows that one trainer cached; None: not counted.
    """

    design: str
    trainers: int
    network: str
    batch: int
    iterations: int
    local_ratio: float
    rows_fetched: float
    rows_written: float
    rows_exchanged: float
    moved_share: float
    bytes_per_trainer: float
    critical_bytes: float
    milliseconds: float
    efficiency: float
    staleness: float
    largest_staleness: int
    held_back: int
    cache_rows: int | None


@dataclass(frozen=True)
class ApproximateFigures:
    """One approximate-key cache, played and as the model expects it. Ratios are shares of all requests.

    Args:
        cache: lru or ideal.
        cache_rows: Answers that fit.
        cache_share: The same as a share of the approximate keys.
        refresh: The factor of auto-refresh; 0: none.
        hit_ratio, error_ratio, refresh_ratio: As in Answers.
        model_hit_ratio, model_error_ratio, model_refresh_ratio: The same, of the model.
    """

    cache: str
    cache_rows: int
    cache_share: float
    refresh: float
    hit_ratio: float
    error_ratio: float
    refresh_ratio: float
    model_hit_ratio: float
    model_error_ratio: float
    model_refresh_ratio: float


@dataclass(frozen=True)
class Figures:
    """All results.

    Args:
        stream: What was played: samples, ids, rows that occur, rows of the tables.
        policies, systems, approximate: The tables.
        notes: What was left out, and why.
    """

    stream: dict[str, int]
    policies: Sequence[PolicyFigures]
    systems: Sequence[SystemFigures]
    approximate: Sequence[ApproximateFigures]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return asdict(self)

    def write(self, directory: Path) -> list[Path]:
        """Write a CSV file for each table that has rows; return the files.

        Raises:
            ConfigError: a file cannot be written.
        """
        tables = {"policies": self.policies, "systems": self.systems, "approximate": self.approximate}
        written = []
        for name, rows in tables.items():
            if rows:
                written.append(directory / f"{name}.csv")
                _write(written[-1], rows)
        return written


def _write(path: Path, rows: Sequence[Any]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; choose another --output") from None
