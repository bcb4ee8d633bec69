"""Jobs of a program: errors are exceptions on all ranks, jobs follow one another, and the process is left as it was."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.exit_codes import EXIT_DIVERGED, EXIT_INVALID
from bagpipe_hpc.timeline.tracks import read_timeline
from tests.integration.jobs import command, finish, summary_of
from tests.integration.programs.library import COMMON
from tests.launch import run_python, run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "library.py")
SETTINGS = [f"training.{name}={value}" for name, value in COMMON.items()]


def check(results: list[str], done: CompletedProcess[str]) -> None:
    invalid, one, two, again, no_data, diverged, stopped, last, after = results
    assert invalid.startswith("ConfigError: settings: training.epochs = 0")
    assert len({one, two, again, last}) == 1  # a digest on rank 0, "done" on the others
    assert no_data.startswith("DatasetError: ")
    assert diverged.startswith("DivergedError: "), diverged
    assert stopped.startswith("JobStopped: stopped after iteration ")
    assert stopped.endswith('the time limit is near; go on with --resume auto (in Python: resume="auto")')
    assert after == "as before"
    assert done.returncode == EXIT_INVALID, done.stderr
    assert done.stderr.count("bagpipe: error: ") == 1, done.stderr
    assert "bagpipe: error: settings: unknown setting 'training.epohcs' (did you mean training.epochs?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_jobs_of_a_program_follow_one_another_with_other_roles(small_dataset: Path, tmp_path: Path) -> None:
    done = run_ranks(5, [PROGRAM, str(small_dataset), str(tmp_path)], timeout=150)
    for rank in range(5):
        assert (tmp_path / f"rank{rank}.json").exists(), done.stdout + done.stderr
        results: list[Any] = json.loads((tmp_path / f"rank{rank}.json").read_text())
        if rank == 0:
            # Three trainers sum in another order than two.
            assert results[1] == results[3] != results[2] == results[7]
            results[2] = results[7] = results[1]
        check(results, done)


def test_local_jobs_of_a_program_have_the_models_of_ranks(small_dataset: Path, tmp_path: Path) -> None:
    done = run_python([PROGRAM, str(small_dataset), str(tmp_path), "local"], timeout=150)
    assert (tmp_path / "rank0.json").exists(), done.stdout + done.stderr
    results = json.loads((tmp_path / "rank0.json").read_text())
    check(results, done)
    timeline = read_timeline(tmp_path / "two" / "trace.json")
    assert {(track.role, track.thread) for track in timeline.tracks} >= {
        ("oracle", "main"),
        ("oracle", "plan"),
        ("server", "main"),
        ("trainer", "main"),
        ("trainer", "prefetch"),
        ("trainer", "exchange_0"),
    }
    assert (timeline.missing_ranks, len(timeline.iterations)) == ([], 20)
    finish(run_ranks(3, command(small_dataset, tmp_path / "ranks", *SETTINGS), timeout=90))
    assert summary_of(tmp_path / "ranks")["model_digest"] == results[1]

    predict = ["-m", "bagpipe_hpc", "predict", str(tmp_path / "ranks" / "checkpoints"), "--data", str(small_dataset)]
    predict += ["--set", "training.threads=1"]
    for run, name in ((run_python, "local"), (lambda args, timeout: run_ranks(3, args, timeout=timeout), "ranks")):
        where = ["--output", str(tmp_path / f"{name}.npy"), "--run-dir", str(tmp_path / f"predict-{name}")]
        out = finish(run([*predict, *where], timeout=90))
        assert f"predictions {tmp_path / name}.npy: 1,000 rows, float32; probability of label\n" in out
    assert (tmp_path / "local.npy").read_bytes() == (tmp_path / "ranks.npy").read_bytes()
    assert np.load(tmp_path / "local.npy").shape == (1000,)


def test_a_local_job_is_refused_under_a_launcher(small_dataset: Path, tmp_path: Path) -> None:
    done = run_ranks(2, command(small_dataset, tmp_path / "run", options=("--local",)), timeout=60)
    finish(done, EXIT_INVALID)
    assert done.stderr.count("bagpipe: error: a local job is one process, but ") == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["raise", "leave"])
def test_a_local_loop_that_fails_raises_and_leaves_no_thread(small_dataset: Path, tmp_path: Path, how: str) -> None:
    program = f"""
import threading
import bagpipe_hpc
from bagpipe_hpc.trainer.trainer_batch import train_on_labels

settings = {{"training": {{"batch_size": 50, "epochs": 100}}}}
for attempt in range(2):
    try:
        with bagpipe_hpc.session(settings, data={str(small_dataset)!r}, run_dir={str(tmp_path)!r}, local=True,
                                 resume="auto") as session:
            for batch in session:
                if batch.iteration == 7:
                    if {how!r} == "leave":
                        break
                    raise ValueError("of mine")
                train_on_labels(batch)
    except Exception as error:
        print("caught", type(error).__name__, error)
for thread in threading.enumerate():
    if thread is not threading.main_thread() and not thread.name.startswith(("core", "metrics", "exchange")):
        thread.join(20)
        assert not thread.is_alive(), thread
"""
    out = finish(run_python(["-c", program], timeout=60))
    expected = "ValueError of mine" if how == "raise" else "OwnModelError the loop over the session was left in iter"
    assert out.count(f"caught {expected}") == 2, out


def test_predictions_that_are_not_finite_are_named_and_not_written(small_dataset: Path, tmp_path: Path) -> None:
    settings = ("training.batch_size=20", "training.learning_rate=1e6", "training.iterations=2")
    arguments = command(small_dataset, tmp_path / "run", *settings, options=("--local",))
    named = "bagpipe: error: the prediction for sample 0 of the validation split is "
    done = run_python(arguments, timeout=60)
    finish(done, EXIT_DIVERGED)
    assert named in done.stderr
    predict = ["predict", str(tmp_path / "run" / "checkpoints"), "--data", str(small_dataset)]
    predict += ["--output", str(tmp_path / "clicks.npy"), "--run-dir", str(tmp_path / "predict")]
    done = run_python(["-m", "bagpipe_hpc", *predict], timeout=60)
    finish(done, EXIT_DIVERGED)
    assert named in done.stderr
    assert not (tmp_path / "clicks.npy").exists()
