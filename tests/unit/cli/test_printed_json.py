"""--json of commands: one JSON value on standard output, and nothing else there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.cli.printed_json import print_json
from tests.integration.conftest import make_dataset
from tests.unit.checkpoint.job import Job

EVIL = "name\nwith lines"


def printed(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [1.5], EVIL: "ü"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5], EVIL: "ü"}


def test_checkpoints(tmp_path: Path) -> None:
    job = Job(tmp_path)
    first = job.save()
    listed = printed("checkpoint", "list", tmp_path)
    assert [(each["path"], each["iteration"], each["parent"]) for each in listed["checkpoints"]] == [
        (str(first), job.iteration, None)
    ]
    assert listed["faults"] == []
    assert printed("checkpoint", "digest", tmp_path) == {"path": str(first), "digest": job.digest()}
    assert printed("checkpoint", "verify", tmp_path) == [{"path": str(first), "fault": None}]
    (first / "dense.h5").write_bytes(b"")
    (damaged,) = printed("checkpoint", "verify", tmp_path, code=1)
    assert "dense.h5" in damaged["fault"]
    assert printed("checkpoint", "prune", tmp_path, "--keep-last", 1) == {"deleted": []}


def test_a_data_set(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "small")
    found = printed("inspect", path, "--max-samples", 10)
    assert [(split["name"], split["num_read"]) for split in found["splits"]] == [("train", 10), ("validation", 10)]
    assert len(found["schema"]["tables"]) == len(found["tables"]) == 5
    assert all(each["fault"] is None for each in printed("inspect", path, "--verify"))
