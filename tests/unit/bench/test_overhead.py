"""Settings and table of the overhead benchmark."""

from __future__ import annotations

import pytest
from rich.console import Console

from bagpipe_hpc.bench.overhead import overhead_table, tiny_settings
from bagpipe_hpc.config import load_config


@pytest.mark.parametrize(("num_ranks", "batch_size"), [(3, 2), (4, 4), (10, 16)])
def test_settings_are_valid_and_tiny(num_ranks: int, batch_size: int) -> None:
    config = load_config(None, tiny_settings(num_ranks, 50))
    assert (config.training.batch_size, config.training.iterations) == (batch_size, 50)
    assert config.is_overlapped


def test_the_table_shows_microseconds_by_thread() -> None:
    working = {"main": 1.234, "exchange": 0.5, "prefetch": 0.25}
    summary = {"trainers": 2, "iterations": 50, "steady_milliseconds": 2.5, "working_milliseconds": working}
    console = Console(width=80, record=True)
    console.print(overhead_table(summary))
    text = console.export_text()
    assert [word for word in ("main", "1,234", "exchange", "500", "prefetch", "250", "2,500") if word not in text] == []
