"""The ladder's rungs, and what is made of their summaries."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from bagpipe_hpc.bench.ladder import COMMON, RUNGS, ladder_table, rungs_named, wrong_digests
from bagpipe_hpc.config import load_config


def summary(milliseconds: float, digest: str) -> dict[str, Any]:
    causes = ("prefetch_wait", "exchange", "delayed_wait", "compute")
    return {
        "steady_milliseconds": milliseconds,
        "milliseconds_per_iteration": dict.fromkeys(causes, 1.5),
        "iterations": 10,
        "rows_fetched": 12_340,
        "rows_pushed": 70,
        "bytes_fetched": 10_000_000,
        "bytes_written_back": 5_000_000,
        "bytes_exchanged": 5_000_000,
        "model_digest": digest,
    }


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.directory)
def test_rungs_are_valid_settings(rung: Any) -> None:
    config = load_config(None, [*COMMON, *rung.overrides])
    assert config.is_overlapped == (rung.directory not in ("synchronous", "cache", "prefetch"))
    assert config.training.epochs == 3


def test_rungs_can_be_chosen() -> None:
    assert [rung.directory for rung in rungs_named("resident,synchronous")] == ["synchronous", "resident"]
    assert rungs_named("") == list(RUNGS)
    with pytest.raises(ValueError, match="'cash' is not a rung; the rungs are synchronous, cache"):
        rungs_named("cash")


def test_blocks_have_rungs_and_models_of_their_own() -> None:
    rungs = rungs_named("delayed", [2, 8, 2])
    assert [rung.directory for rung in rungs] == ["delayed", "2-blocks", "8-blocks"]
    assert "training.blocks=8" in rungs[2].overrides
    summaries = {rung.directory: summary(1, digest) for rung, digest in zip(rungs, "abc", strict=True)}
    assert wrong_digests(rungs, summaries) == []


def test_ratios_are_to_the_first_and_the_bound() -> None:
    rungs = rungs_named("synchronous,delayed,locality,resident")
    milliseconds = {"synchronous": 40, "delayed": 12, "locality": 11, "resident": 10}
    summaries = {name: summary(time, "a") for name, time in milliseconds.items()}
    console = Console(width=100, record=True)
    console.print(ladder_table(rungs, summaries))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if "+ delayed" in line)
    assert [word for word in ("12.0", "3.33", "1.20", "1,234", "2.0") if word not in row] == []
    assert "1.10" not in next(line for line in lines if "+ locality" in line)  # its own bound was not run


def test_another_digest_is_found_out_where_it_may_not_be() -> None:
    digests = {
        "synchronous": "a",
        "cache": "b",
        "locality": "c",
        "wire": "d",
        "resident": "a",
        "resident-locality": "e",
    }
    rungs = rungs_named(",".join(digests))
    summaries = {name: summary(1, digest) for name, digest in digests.items()}
    assert wrong_digests(rungs, summaries) == ["+ cache", "resident + locality"]
