"""The charts are valid Vega-Lite (altair checks them), and those without values are left out."""

from __future__ import annotations

import json
from pathlib import Path

from bagpipe_hpc.report.charts import pictures_of
from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.run_directory import Run, State, read_run

from .synthetic import write_run


def test_one_run_has_all_charts(tmp_path: Path) -> None:
    run = RunFigures(read_run(write_run(tmp_path / "run")))
    pictures = pictures_of([run])
    keys = [
        "loss",
        "metrics",
        "speed",
        "causes",
        "overlapped",
        "moves",
        "cache",
        "paths",
        "balance",
        "memory",
        "checkpoints",
    ]
    assert [picture.key for picture in pictures] == keys
    specs = {picture.key: json.dumps(picture.chart.to_dict()) for picture in pictures}
    assert "restart" in specs["loss"]
    assert "forced out" in next(picture.says for picture in pictures if picture.key == "cache")


def test_several_runs_are_overlaid(tmp_path: Path) -> None:
    runs = [RunFigures(read_run(write_run(tmp_path / name, loss=loss))) for name, loss in (("a", 0.5), ("b", 0.4))]
    pictures = pictures_of(runs)
    assert [picture.key for picture in pictures] == ["loss", "metrics", "speed", "causes", "moves", "paths", "memory"]
    for picture in pictures:
        spec = json.dumps(picture.chart.to_dict())
        assert '"run": "a"' in spec, picture.key
        assert '"run": "b"' in spec, picture.key


def test_a_run_without_files_has_no_charts() -> None:
    assert pictures_of([RunFigures(Run("run", Path("run"), State.RUNNING))]) == []


def test_a_peak_at_the_start_does_not_hide_the_rest(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    slow = [dict(line) for line in run.figures]
    for line in slow:
        if line["kind"] == "trainer" and line["iteration"] > 20:
            line["seconds"] = 0.02 * line["iterations"]
        elif line["kind"] == "trainer":
            line["seconds"] = 20.0
    long = [dict(line, iteration=line["iteration"] + 20, iterations=line["iterations"] + 20,
                 seconds=line["seconds"] + 0.4) for line in slow[-5:-3]]  # fmt: skip
    figures = RunFigures(Run("run", run.path, run.state, figures=(*slow, *long)))
    causes = next(picture for picture in pictures_of([figures]) if picture.key == "causes")
    assert "Peaks of up to 1,000 ms are cut off" in causes.says
