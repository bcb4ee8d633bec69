"""Counts that grow become intervals; a restart drops what is repeated."""

from __future__ import annotations

from bagpipe_hpc.report.intervals import current_lines, intervals_of

from .synthetic import CAUSES, figures, start_line, trainer_line


def test_intervals_are_differences_of_each_start() -> None:
    intervals = intervals_of(current_lines(figures()))
    assert [(each.start, each.iteration, each.num_iterations) for each in intervals] == [
        (0, 20, 20),
        (1, 40, 20),
        (1, 60, 20),
    ]
    last = intervals[-1]
    assert (last.total("samples"), last.total("rows_fetched"), last.rows_by_server) == (400, 80, [80.0])
    assert abs(last.causes[0]["compute"] - 20 * CAUSES["compute"]) < 1e-9


def test_lines_behind_the_checkpoint_of_a_restart_are_dropped() -> None:
    kept = current_lines(figures())
    trainers = [(start, line["iteration"]) for start, line in kept if line["kind"] == "trainer"]
    assert trainers == [(0, 20), (0, 20), (1, 40), (1, 40), (1, 60), (1, 60)]
    assert sum(line["kind"] == "start" for _, line in kept) == 2


def test_nonsense_counts_as_nothing() -> None:
    odd = {"kind": "trainer", "trainer": 0, "iteration": 5, "time": 1.0, "iterations": "7", "seconds_by_cause": [1]}
    missing = {"kind": "trainer", "iteration": 5}
    lines = [{}, start_line(0), odd, missing, {**trainer_line(0, 20, 20), "rows_by_server": "no"}]
    (interval,) = intervals_of(current_lines(lines))
    assert (interval.iteration, interval.rows_by_server) == (20, [])
