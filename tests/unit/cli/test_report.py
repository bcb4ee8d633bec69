"""`bagpipe report`, from a run directory to a table and a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.errors import TraceError
from tests.unit.timeline.synthetic import write_ranks


def report(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_all_iterations_and_the_middle_drawn(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    output = report(tmp_path)
    words = [
        "iterations 0 to 5",
        "trainer main",
        "trainer prefetch",
        "compute",
        "50.0%",
        "5.000",
        "timeline.png",
        "trace.json",
    ]
    assert [word for word in words if word not in output] == []
    assert "warning" not in output
    assert (tmp_path / "timeline.png").exists()


def test_chosen_iterations_of_a_run_that_failed(tmp_path: Path) -> None:
    write_ranks(tmp_path, ranks=(0, 2, 3))
    output = report(tmp_path, "--iterations", "2:4", "-o", tmp_path / "two.svg")
    assert "iterations 2 to 3" in output
    assert "warning: no trace of rank 1" in output
    assert "Iterations 2 to 3" in (tmp_path / "two.svg").read_text()


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    with pytest.raises(TraceError, match=r"none/a.png cannot be written: No such file or directory; .* with -o"):
        report(tmp_path, "-o", tmp_path / "none" / "a.png")


def test_a_run_without_a_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="run the job with `bagpipe train --trace`"):
        report(tmp_path)
