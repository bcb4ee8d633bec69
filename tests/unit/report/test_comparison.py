"""What differs comes first."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.report.comparison import settings_of, summaries_of
from bagpipe_hpc.report.run_directory import Run, State


def run(name: str, settings: dict[str, object], summary: dict[str, object]) -> Run:
    return Run(name, Path(name), State.DONE, settings=settings, summary=summary)


FIRST = run("a", {"mode": "cached", "cache.rows": None}, {"loss": 0.5, "mode": "cached", "evaluations": {"best": 0.7}})
SECOND = run("b", {"mode": "synchronous", "cache.rows": None}, {"loss": 0.25, "mode": "cached", "rows": 10**6})


def test_settings_that_differ_come_first() -> None:
    first, rest = settings_of([FIRST, SECOND])
    assert [(row.name, row.values) for row in first] == [("mode", ("cached", "synchronous"))]
    assert [(row.name, row.values) for row in rest] == [("cache.rows", ("null", "null"))]


def test_of_one_run_those_come_first_that_are_not_the_default() -> None:
    first, rest = settings_of([SECOND])
    assert ([row.name for row in first], [row.name for row in rest]) == (["mode"], ["cache.rows"])


def test_figures_that_differ_and_by_how_much() -> None:
    rows = {row.name: (row.values, row.changes) for row in summaries_of([FIRST, SECOND])}
    assert rows == {
        "loss": (("0.5", "0.25"), ("", "-50.0%")),
        "evaluations.best": (("0.7", "-"), ("", "")),
        "rows": (("-", "1,000,000"), ("", "")),
    }
