"""The tiles of a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.key_figures import bytes_in_words, key_figures
from bagpipe_hpc.report.run_directory import Run, State, read_run

from .synthetic import write_run


def test_of_a_run_that_is_done(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    figures = {figure.name: (figure.value, figure.note) for figure in key_figures(RunFigures(run))}
    assert figures["iterations"] == ("60", "1 restart")
    assert figures["waiting"] == ("25%", "of an iteration, most for prefetch wait")
    assert figures["best AUC"] == ("0.7600", "after 60")
    assert figures["rows fetched"] == ("4", "per iteration; 10 pushed, 2 written back")
    assert figures["largest memory"] == ("300 MB", "of oracle")
    assert "energy" not in figures


def test_of_a_run_that_runs(tmp_path: Path) -> None:
    run = replace(read_run(write_run(tmp_path / "run")), summary={}, state=State.RUNNING)
    run = replace(run, figures=run.figures[:8])
    figures = {figure.name: (figure.value, figure.note) for figure in key_figures(RunFigures(run))}
    assert figures["time per iteration"] == ("20 ms", "mean of the latest iterations")
    assert figures["AUC"] == ("0.7600", "after 60")


def test_of_a_run_that_has_only_begun() -> None:
    assert key_figures(RunFigures(Run("run", Path("run"), State.RUNNING))) == []


def test_energy(tmp_path: Path) -> None:
    run = replace(read_run(write_run(tmp_path / "run")), summary={"energy": {"joules": 1600.0}, "samples": 800})
    energy = next(figure for figure in key_figures(RunFigures(run)) if figure.name == "energy")
    assert (energy.value, energy.note) == ("1.6 kJ", "2e+03 J per 1,000 samples")


def test_bytes_have_units() -> None:
    assert [bytes_in_words(number) for number in (0, 999, 1234, 5.6e7, 3e12)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "56 MB",
        "3 TB",
    ]
