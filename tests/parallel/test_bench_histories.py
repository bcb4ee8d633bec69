"""`bagpipe bench histories` as a user runs it. Its speeds say nothing here."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launch import run_ranks

BENCH = ["-m", "bagpipe_hpc", "bench", "histories", "--elements", "200", "--iterations", "2"]


def test_figures_of_every_model_and_length(tmp_path: Path) -> None:
    files = ["--run-dir", str(tmp_path / "runs"), "--json", str(tmp_path / "histories.json")]
    done = run_ranks(4, [*BENCH, "--lengths", "5,40", "--models", "din,hstu", *files], timeout=120.0)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "histories.json").read_text(encoding="utf-8"))
    assert [(run["model"], run["length"], run["batch_size"]) for run in runs] == [
        ("din", 5, 40), ("hstu", 5, 40), ("din", 40, 5), ("hstu", 40, 5)
    ]  # fmt: skip
    assert all(run["elements_per_second"] > 0 for run in runs)
    assert all(run["peak_bytes"].keys() == {"oracle", "server", "trainer"} for run in runs)
    assert not (tmp_path / "runs").exists()


def test_a_directory_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = run_ranks(3, [*BENCH, "--run-dir", str(tmp_path)], timeout=60.0)
    assert done.returncode == 2
    assert done.stderr.count("already exists and is not empty") == 1
    assert (tmp_path / "run").exists()
