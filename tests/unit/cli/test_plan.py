from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.errors import BagpipeError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "clicks"
    options = ["--samples", "2000", "--profile", "avazu", "--scale", "0.001"]
    assert CliRunner().invoke(app, ["synth", "--output", str(path), *options]).exit_code == 0
    return path


def plan(data: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", "--data", str(data), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tables_settings_and_job_script(data: Path) -> None:
    options = ("--trainers", "2", "--compute", "1e-4", "--windows", "4,8", "--set", "training.batch_size=64")
    shown = plan(data, *options)
    for expected in (
        "predictions",
        "what limits an iteration",
        "95th percentile",
        "smaller caches",
        "An iteration takes as long as: computing. Next: ",
        "lookahead:\n  window: 4\n  prefetch_depth: 4\n",
        "bagpipe jobs render --nodes 2 --trainers-per-node 1 --gpus-per-node 0 --servers 1",
    ):
        assert expected in shown


def test_json(data: Path) -> None:
    options = ("--trainers", "2", "--servers", "1", "--gpu", "h100", "--windows", "4", "--batch-sizes", "64,128")
    figures = json.loads(plan(data, *options, "--json"))
    assert [each["choice"]["batch_size"] for each in figures["predictions"]] == [64, 128]
    assert figures["recommended"]["memory"]["cache_rows"] == figures["caches"][0]["rows"]
    assert figures["settings"]["roles"] == {"servers": 1}
    assert figures["compute"]["source"].startswith("estimate for h100")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "abacus"], "--gpu is 'abacus'; known are v100"),
        (["--gpu", "h100", "--compute", "1"], "--gpu and --compute both say"),
        (["--compute", "0"], "--compute is 0; give seconds per sample above 0"),
        (["--compute", "nan"], "--compute is nan"),
        (["--network", "fast"], "--network has 'fast'; write speeds as 25Gbit"),
        (["--network", "1Gbit,2Gbit"], "--network has 2 speeds; give one"),
        (["--trainers", "0"], "--trainers has '0'; write whole numbers from 1 on"),
        (["--windows", "2", "--compute", "1"], "the grid is empty"),
        (["--latency-microseconds", "-1"], "--latency-microseconds is -1"),
        (["--set", "mode=synchronous"], "mode is synchronous, which has no window and no cache to size"),
        (["--set", "training.batch_size=none"], "training.batch_size"),
    ],
)
def test_bad_input_is_one_clear_error(data: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--data", str(data), *arguments])
    assert isinstance(result.exception, BagpipeError)
    assert message in str(result.exception)


def test_a_directory_without_a_data_set_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--data", str(tmp_path), "--compute", "1"])
    assert isinstance(result.exception, BagpipeError)
