"""Run directories of jobs that run, were killed or wrote nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.errors import RunDirectoryError
from bagpipe_hpc.report.run_directory import State, names_of, number_in, read_run
from bagpipe_hpc.runtime.run_directory import DONE
from bagpipe_hpc.runtime.run_lock import claim

from .synthetic import figures, start_line, write_lines, write_run


def test_a_run_that_is_done(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "first"))
    assert (run.name, run.state, run.notes) == ("first", State.DONE, ())
    assert run.settings == {"mode": "cached", "training.batch_size": 20}
    assert (len(run.metrics), len(run.evaluations), len(run.figures)) == (3, 2, len(figures()))


def test_a_run_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / DONE).unlink()
    (path / "summary.json").unlink()
    write_lines(path / "figures.jsonl", [start_line(0)])
    whole = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(whole[:-7])
    run = read_run(path)
    assert (run.state, run.summary, len(run.metrics), run.notes) == (State.FAILED, {}, 2, ())


def test_a_run_that_runs(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    write_lines(path / "figures.jsonl", [start_line(0)])
    lock = claim(path)
    assert read_run(path).state is State.RUNNING
    lock.release()
    assert read_run(path).state is State.DONE


@pytest.mark.parametrize("outcome", ["stopped", "diverged"])
def test_a_run_that_ended_early_says_why(tmp_path: Path, outcome: str) -> None:
    path = write_run(tmp_path / "run")
    (path / DONE).unlink()
    end = {"kind": "end", "iteration": 20, "outcome": outcome, "reason": "as asked"}
    write_lines(path / "figures.jsonl", [start_line(0), end])
    run = read_run(path)
    assert (run.state, run.reason) == (State(outcome), "as asked")


def test_nonsense_is_left_out_and_said(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "metrics.jsonl").write_bytes(b'{"iteration": 1}\nnonsense\n[1]\n{"loss": NaN}\n\xff\n')
    (path / "summary.json").write_text("{")
    (path / "config.yaml").write_text("!!python/object:os.system {}")
    run = read_run(path)
    assert run.metrics == ({"iteration": 1},)
    assert (run.summary, run.settings) == ({}, {})
    assert [
        word for word in ("metrics.jsonl: 4 lines", "summary.json", "config.yaml") if word not in str(run.notes)
    ] == []


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_directory_without_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match=r"give the --run-dir of a job"):
        read_run(tmp_path / name)


def test_names_are_as_short_as_they_may_be(tmp_path: Path) -> None:
    paths = [Path("/a/first"), Path("/a/second"), Path("/b/second")]
    assert names_of(paths) == ["first", "a/second", "b/second"]


def test_numbers_are_numbers() -> None:
    line = {"a": 1, "b": 2.5, "c": True, "d": "3", "e": None}
    assert [number_in(line, name) for name in "abcdef"] == [1.0, 2.5, None, None, None, None]
