"""Figures as CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.figures import Figures, PolicyFigures

FIGURES = Figures({"samples": 5}, [PolicyFigures("lru", 10, 0.1, 100, 50, 0.5, 5)], [], [], ["a note"])


def test_tables_with_rows_are_written(tmp_path: Path) -> None:
    (path,) = FIGURES.write(tmp_path)
    with path.open() as file:
        assert list(csv.DictReader(file)) == [
            {
                "policy": "lru", "cache_rows": "10", "cache_share": "0.1", "accesses": "100", "hits": "50",
                "hit_ratio": "0.5", "rows_moved_per_iteration": "5",
            }
        ]  # fmt: skip
    assert FIGURES.to_json()["policies"][0]["hits"] == 50


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policies.csv cannot be written: No such file.*--output"):
        FIGURES.write(tmp_path / "none")
