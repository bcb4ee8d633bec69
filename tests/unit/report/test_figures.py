"""The tables behind the pictures, by their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.run_directory import Run, State, read_run

from .synthetic import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFigures:
    return RunFigures(read_run(write_run(tmp_path / "run")))


def values(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_curves_know_the_time(run: RunFigures) -> None:
    rows = run.curve("samples_per_second")
    assert values(rows, "run", "iteration", "value") == [("run", 20, 1020.0), ("run", 40, 1040.0), ("run", 60, 1060.0)]
    assert [row["minutes"] for row in rows] == pytest.approx([20 / 60, 40 / 60, 1.0], abs=1e-3)


def test_evaluations(run: RunFigures) -> None:
    rows = [row for row in run.evaluations() if row["metric"] == "AUC"]
    assert values(rows, "iteration", "value") == [(30, 0.73), (60, 0.76)]


def test_the_causes_of_an_iteration_add_up_to_its_time(run: RunFigures) -> None:
    last = {row["cause"]: row["ms"] for row in run.causes() if row["iteration"] == 60}
    assert last == pytest.approx(
        {"plan wait": 1.0, "prefetch wait": 3.0, "exchange": 2.0, "compute": 10.0, "rest": 4.0}
    )
    overlapped = run.causes(overlapped=True)
    assert values(overlapped, "iteration", "cause") == [(n, "early pushes") for n in (20, 40, 60)]
    assert {row["cause"]: row["ms"] for row in run.mean_causes()} == pytest.approx(
        {"plan wait": 1.0, "prefetch wait": 3.0, "exchange": 2.0, "compute": 10.0}
    )


def test_rows_and_bytes_per_iteration(run: RunFigures) -> None:
    last = {row["move"]: row["rows"] for row in run.moves() if row["iteration"] == 60}
    assert last == {"fetched": 4.0, "written back": 2.0, "pushed": 10.0}
    assert {row["move"]: row["rows"] for row in run.mean_moves()} == last
    assert {row["path"]: row["bytes"] for row in run.paths()}["dense gradients"] == 2000.0


def test_without_a_summary_the_lines_of_trainers_count(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    whole = RunFigures(read_run(path))
    (path / "summary.json").unlink()
    running = RunFigures(read_run(path))
    assert running.totals() == pytest.approx({**whole.totals(), "bytes_plans": 80000.0})
    assert {row["cause"]: row["ms"] for row in running.mean_causes()} == pytest.approx(
        {row["cause"]: row["ms"] for row in whole.mean_causes()}
    )


def test_caches_and_memory(run: RunFigures) -> None:
    assert values(run.cached_rows(), "iteration", "trainer", "rows")[-2:] == [
        (60, "trainer 0", 60.0),
        (60, "trainer 1", 7.0),
    ]
    assert run.cache_limit == 80
    assert {row["rank"]: row["bytes"] for row in run.peak_memory()} == {
        "oracle": 3e8,
        "server 0": 2e8,
        "trainer 0": 1e8,
        "trainer 1": 1.01e8,
    }


def test_the_balance_shows_who_has_more_to_do(run: RunFigures) -> None:
    shares = {(row["what"], row["rank"]): row["share"] for row in run.balance()}
    assert (shares["rows fetched", "trainer 0"], shares["rows fetched", "trainer 1"]) == (0.5, 1.5)
    assert shares["samples", "trainer 1"] == 1.0
    assert not any(what == "rows served" for what, _ in shares)  # there is one server


def test_marks(run: RunFigures) -> None:
    assert values(run.marks(), "mark", "iteration") == [
        ("checkpoint", 20),
        ("evaluation", 30),
        ("evaluation", 60),
        ("restart", 20),
    ]


def test_a_run_that_has_only_begun() -> None:
    figures = RunFigures(Run("run", Path("run"), State.RUNNING))
    tables = [figures.causes(), figures.mean_causes(), figures.moves(), figures.mean_moves(), figures.paths()]
    tables += [figures.curve("loss"), figures.memory(), figures.balance(), figures.cached_rows(), figures.marks()]
    assert tables == [[]] * 10
