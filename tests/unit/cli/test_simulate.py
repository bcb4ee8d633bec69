"""`bagpipe simulate`, from a data set to tables, JSON, CSV files and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.errors import BagpipeError

SMALL = ("--trainers", "1,4", "--batch", 200, "--policies", "", "--trainer-cache-rows", "100%", "--networks", "10Gbit")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "data"
    synthesize(path, num_samples=1_000, profile="avazu", scale=0.001, validation_fraction=0.0)
    return path


def simulate(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tables_and_files(data: Path, tmp_path: Path) -> None:
    output = simulate("--data", data, *SMALL, "--output", tmp_path / "new" / "out")
    expected = ("1,000 samples with 22,000 ids", "lookahead-200", "T = 4, B = 200, 5 iterations", "all-to-all-unique",
                "staleness-100", "10Gbit", "ideal, none")  # fmt: skip
    assert [words for words in expected if words not in output] == []
    assert max(map(len, output.splitlines())) <= 140
    names = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert names == {"policies.csv", "systems.csv", "approximate.csv", "policies.png", "systems.png",
                     "efficiency.png", "staleness.png", "approximate.png"}  # fmt: skip


def test_json_alone(data: Path) -> None:
    figures = json.loads(simulate("--data", data, *SMALL, "--scaling", "weak", "--json"))
    assert figures["stream"]["samples"] == 1_000
    assert {row["batch"] for row in figures["systems"]} == {200, 800}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scaling", "odd"), "--scaling is 'odd'; allowed: strong, weak"),
        (("--trainers", "0"), "--trainers has '0'"),
        (("--trainers", "512"), "--trainers has 512, but a batch has 200 samples"),
        (("--policies", "mru"), "--policies has 'mru'; allowed: lru"),
        (("--networks", "fast"), "--networks has 'fast'"),
        (("--trainer-cache-rows", "1%,2%"), "--trainer-cache-rows has 2 sizes; give one"),
        (("--latency-microseconds", "-1"), "must be at least 0"),
        (("--batch", "2000"), "nothing to simulate: T = 1 is left out: 1,000 samples are 1 batch of 2,000"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_bad_input(data: Path, options: tuple[str, str], message: str) -> None:
    with pytest.raises(BagpipeError, match=message):
        simulate("--data", data, *SMALL, *options)


def test_an_output_that_cannot_be_made(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BagpipeError, match=r"--output .*/file/out cannot be made: .*choose another directory"):
        simulate("--data", data, *SMALL, "--output", tmp_path / "file" / "out")
