"""The planning benchmark, on little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bagpipe_hpc.bench.oracle import OracleCase, measure_oracle
from bagpipe_hpc.cli.main import app
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.errors import BagpipeError, ConfigError
from tests.small_disk import small_disk

SMALL = OracleCase(scale=1e-5, batch=32, lookahead=5, prefetch_depth=2, trainers=3, rounds=2, plans=4, threads=2)


def test_figures_are_those_of_the_stream() -> None:
    figures = measure_oracle(SMALL)
    assert figures.num_tables == 26
    assert figures.ids == 32 * 26
    assert 0 < figures.fetches <= figures.keys <= figures.trainer_keys <= 32 * 26
    assert figures.pushes <= figures.trainer_keys
    assert figures.forced_evictions == 0
    assert figures.milliseconds_of_steps.keys() == {"read batch", "enter batch", "plan", "encode"}
    assert all(value >= 1 for value in figures.imbalance.values())
    assert figures.key_state_bytes == 8 * figures.num_keys
    assert 0 < figures.bytes_per_sample_and_trainer < figures.plan_bytes
    assert figures.ratio == figures.milliseconds / figures.yardstick_milliseconds
    console = Console(width=140, record=True)
    console.print(figures.table())
    assert "unique keys" in console.export_text()


def test_ids_of_histories_count() -> None:
    figures = measure_oracle(replace(SMALL, profile="histories", scale=1e-3, history_length=40, rounds=1))
    assert figures.num_tables == 4
    assert 2 * 32 + 2 * 32 * 30 < figures.ids < 2 * 32 + 2 * 32 * 50
    assert figures.ids_per_second == pytest.approx(figures.ids / figures.milliseconds * 1e3)
    assert figures.keys < figures.ids


def test_command_writes_json(tmp_path: Path) -> None:
    arguments = "--scale 1e-5 --batch 16 --lookahead 3 --trainers 2 --servers 1 --rounds 1 --plans 2 --threads 1"
    target = tmp_path / "oracle.json"
    options = [*arguments.split(), "--placement", "locality", "--cache-rows", "400", "--json", str(target)]
    result = CliRunner().invoke(app, ["bench", "oracle", *options])
    assert result.exit_code == 0, result.output
    figures = json.loads(target.read_text())
    assert figures["case"]["placement"] == "locality"
    assert "assign samples" in figures["milliseconds_of_steps"]
    assert figures["samples_per_second"] == pytest.approx(16 / (figures["milliseconds"] / 1000))


def test_too_short_a_data_set_is_refused(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", 500, "avazu", scale=1e-4, validation_fraction=0.1)
    with pytest.raises(ConfigError, match=r"has 450 training samples, but .* need .*; lower --lookahead"):
        measure_oracle(OracleCase(data=tmp_path / "data", batch=64, lookahead=100))


@pytest.mark.parametrize("name", ["batch", "lookahead", "trainers", "threads", "plans"])
def test_sizes_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name} is 0; at least 1"):
        OracleCase(**cast(Any, {name: 0}))


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 16 * 4096) as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk.path))
        with pytest.raises(BagpipeError, match="No space left on device"):
            measure_oracle(SMALL)
        assert disk.names() == []
