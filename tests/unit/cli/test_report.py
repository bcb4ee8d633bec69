"""`bagpipe report`, from run directories to a page, a picture or JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.errors import BagpipeError, ConfigError, PlatformError, TraceError
from bagpipe_hpc.report import page
from bagpipe_hpc.runtime.run_directory import DONE
from bagpipe_hpc.runtime.run_lock import claim
from tests.unit.report.synthetic import start_line, write_lines, write_run
from tests.unit.timeline.synthetic import write_ranks


@pytest.fixture(autouse=True)
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vega takes seconds to bundle; the test in a browser has the real one."""
    monkeypatch.setattr(page, "_library", lambda: "/* Vega */")


def report(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_page_of_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first")
    output = report(run)
    assert output.splitlines()[0].startswith("first: done, iterations 60, samples/s 1,000, ")
    assert output.splitlines()[-1] == f"page {run}/report.html"
    assert "Training loss" in (run / "report.html").read_text()


def test_several_runs_are_compared_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / name) for name in ("first", "second")]
    assert report(*runs, runs[0]).splitlines()[-1] == "page comparison.html"
    assert "2 runs" in (tmp_path / "comparison.html").read_text()


@pytest.mark.parametrize("options", [("-o", "x.json"), ("--format", "json", "-o", "x")])
def test_json_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    assert report(write_run(tmp_path / "run"), *options).splitlines()[-1] == f"figures {options[-1]}"
    (tree,) = json.loads(Path(options[-1]).read_text())
    assert tree["run"] == "run"


def test_json_for_scripts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tree,) = json.loads(report(run, "--json"))
    assert tree["state"] == "done"
    assert not (run / "report.html").exists()


def test_a_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert report(run, "--format", "png").splitlines()[-1] == f"picture {run}/report.png"
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_traced_run_has_its_table_and_timeline(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    output = report(tmp_path, "--timeline", tmp_path / "timeline.svg")
    words = ["iterations 0 to 5", "trainer main", "trainer prefetch", "compute", "50.0%", "5.000", "timeline.svg",
             "trace.json"]  # fmt: skip
    assert [word for word in words if word not in output] == []
    assert "warning" not in output
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()
    assert "Iterations 1 to 4" in (tmp_path / "timeline.svg").read_text()


def test_chosen_iterations_of_a_traced_run_that_failed(tmp_path: Path) -> None:
    write_ranks(tmp_path, ranks=(0, 2, 3))
    output = report(tmp_path, "--iterations", "2:4")
    assert "iterations 2 to 3" in output
    assert "warning: no trace of rank 1" in output


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(BagpipeError, match=r"none/a.html cannot be written: No such file or directory; .* with -o"):
        report(run, "-o", tmp_path / "none" / "a.html")
    write_ranks(run)
    with pytest.raises(BagpipeError, match=r"none/a.svg cannot be written: .* choose another --timeline"):
        report(run, "--timeline", tmp_path / "none" / "a.svg")


@pytest.mark.parametrize("option", ["--iterations=2:4", "--timeline=a.png"])
def test_what_needs_a_trace_says_so(tmp_path: Path, option: str) -> None:
    with pytest.raises(TraceError, match="run the job with `bagpipe train --trace`"):
        report(write_run(tmp_path / "run"), option)


def test_contradictions(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ConfigError, match=r"-o x.pdf: end the name in .html, .png or .json, or say --format"):
        report(runs[0], "-o", "x.pdf")
    with pytest.raises(ConfigError, match="--timeline draws one run"):
        report(*runs, "--timeline", "x.png")


def test_without_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(PlatformError, match=r"needs altair: install it with `pip install 'bagpipe_hpc\[report\]'`"):
        report(run)
    assert report(run, "--format", "json")


class Job:
    """A job that runs, until the report has slept twice."""

    def __init__(self, path: Path) -> None:
        self.path = write_run(path)
        write_lines(self.path / "figures.jsonl", [start_line(0)])
        (self.path / DONE).unlink()
        self._lock = claim(self.path)
        self.pages: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.pages.append((self.path / "report.html").read_text())
        assert seconds == 2.0
        if len(self.pages) == 2:
            (self.path / DONE).touch()
            self._lock.release()


def test_follow_writes_the_page_until_the_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path / "run")
    monkeypatch.setattr(time, "sleep", job.sleep)
    output = report(job.path, "--follow", "--every", "2").splitlines()
    assert output[0] == f"page {job.path}/report.html, every 2 s while the job runs; Ctrl-C ends this"
    assert output[1:3] == ["run: running, iterations 60"] * 2
    assert all("const refreshSeconds = 2.0;" in each for each in job.pages)
    assert "const refreshSeconds = 0.0;" in (job.path / "report.html").read_text()


def test_ctrl_c_ends_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path / "run")

    def interrupted(seconds: float) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert report(job.path, "--follow").splitlines()[-1] == f"page {job.path}/report.html"
    assert "const refreshSeconds = 0.0;" in (job.path / "report.html").read_text()
