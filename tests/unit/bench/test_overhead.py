"""Settings and table of the overhead benchmark."""

from __future__ import annotations

import pytest
from rich.console import Console

from bagpipe_hpc.bench.overhead import (
    RankIdle,
    check_pause,
    idle_by_role,
    idle_table,
    length_settings,
    overhead_figures,
    overhead_table,
    tiny_settings,
)
from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError


@pytest.mark.parametrize(("num_ranks", "batch_size"), [(3, 2), (4, 4), (10, 16)])
def test_settings_are_valid_and_tiny(num_ranks: int, batch_size: int) -> None:
    config = load_config(None, [*tiny_settings(num_ranks), *length_settings(50)])
    assert (config.training.batch_size, config.training.iterations) == (batch_size, 50)
    assert config.is_overlapped


SUMMARY = {
    "trainers": 2,
    "iterations": 50,
    "dense_backend": "mpi",
    "steady_milliseconds": 2.5,
    "working_milliseconds": {"main": 1.234, "exchange": 0.5, "prefetch": 0.25},
}


def test_the_table_shows_microseconds_by_thread() -> None:
    console = Console(width=80, record=True)
    console.print(overhead_table(overhead_figures(SUMMARY, 900.0, [], 0.0)))
    text = console.export_text()
    words = (
        "T = 2, medians of 50 iterations",
        "main",
        "1,234",
        "exchange",
        "500",
        "prefetch",
        "250",
        "2,500",
        "900",
        "334",
    )
    assert [word for word in words if word not in text] == []


def test_figures_name_their_units() -> None:
    figures = overhead_figures(SUMMARY, 900.0, [RankIdle("oracle", {"main": 0.01})], 10.0)
    assert figures["microseconds_of_work"] == {"main": 1234.0, "exchange": 500.0, "prefetch": 250.0}
    assert (figures["microseconds_per_iteration"], figures["pause_seconds"]) == (2500.0, 10.0)
    assert figures["idle"] == {"oracle": {"main": 0.01}}


@pytest.mark.parametrize("seconds", [-1.0, 0.01, 1e300, float("nan")])
def test_a_pause_that_cannot_be_measured_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="give 0, or from 1 to 3600 seconds"):
        check_pause(seconds)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 10.0])
def test_other_pauses_are_good(seconds: float) -> None:
    check_pause(seconds)


def test_the_busiest_thread_of_a_role_counts() -> None:
    ranks = [
        RankIdle("oracle", {"main": 0.011}),
        RankIdle("trainer", {"main": 0.004, "prefetch": 0.007}),
        RankIdle("trainer", {"main": 0.006, "prefetch": 0.0, "horovod": 0.38}),
    ]
    assert idle_by_role(ranks) == {
        "oracle": {"main": 0.011},
        "trainer": {"main": 0.006, "prefetch": 0.007, "horovod": 0.38},
    }


def test_the_table_of_waiting_threads_sums_up_those_that_sleep() -> None:
    idle = {"oracle": {"main": 0.0134, "plan": 0.0, "encode": 0.0004}, "server": {"main": 0.0}}
    console = Console(width=80, record=True)
    console.print(idle_table(idle, 10))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["oracle", "main", "1.3"] in lines
    assert ["oracle", "2", "others", "0.0"] in lines
    assert ["server", "1", "threads", "0.0"] in lines
