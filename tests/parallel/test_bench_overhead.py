"""`bagpipe bench overhead` as a user runs it: every role's threads are named, and those that wait sleep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bagpipe_hpc.trainer.horovod_state import fault_of_horovod
from tests.integration.conftest import make_dataset
from tests.integration.programs import own_models
from tests.launch import run_ranks

BENCH = ["-m", "bagpipe_hpc", "bench", "overhead", "--iterations", "60"]
ROLES = ["oracle", "server", "trainer 0, which pauses", "trainer"]
A_SPIN = 0.25  # share of a core; a thread that spins takes far more, even if other processes need the cores


def figures(tmp_path: Path, *options: str) -> dict[str, Any]:
    files = ["--run-dir", str(tmp_path / "run"), "--json", str(tmp_path / "overhead.json")]
    data = str(make_dataset(tmp_path / "data"))
    done = run_ranks(4, [*BENCH, "--data", data, *files, *options], timeout=120.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("while trainer 0 paused" in done.stdout) == ("--pause=0" not in options), done.stdout
    found: dict[str, Any] = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))
    return found


def test_waiting_threads_sleep(tmp_path: Path) -> None:
    found = figures(tmp_path, "--pause=3", "--set", "dense.backend=mpi")
    assert sorted(found["microseconds_of_work"]) == ["exchange", "main", "prefetch"]
    assert list(found["idle"]) == ROLES
    assert {"main", "prefetch"} <= found["idle"]["trainer"].keys()
    busy = {(role, name): s for role, threads in found["idle"].items() for name, s in threads.items() if s > A_SPIN}
    assert busy == {}


def test_the_thread_of_horovod_is_named(tmp_path: Path) -> None:
    if fault_of_horovod():
        return  # set up without it
    assert "horovod" in figures(tmp_path, "--pause=1", "--set", "dense.backend=horovod")["idle"]["trainer"]


def test_without_a_pause_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    assert figures(tmp_path, "--pause=0")["idle"] == {}


def test_a_file_that_cannot_be_written_is_refused_before_the_job(tmp_path: Path) -> None:
    data = str(make_dataset(tmp_path / "data"))
    written = str(tmp_path / "missing" / "overhead.json")
    done = run_ranks(3, [*BENCH, "--data", data, "--run-dir", str(tmp_path / "run"), "--json", written], timeout=60.0)
    assert done.returncode == 2
    assert done.stderr.count("bagpipe: error: ") == 1
    assert f"{written} cannot be written: " in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_model_is_named(tmp_path: Path) -> None:
    data = str(make_dataset(tmp_path / "data"))
    factory = ["--set", f"model.factory={own_models.__name__}:failing"]
    done = run_ranks(3, [*BENCH, "--data", data, "--run-dir", str(tmp_path / "run"), *factory], timeout=60.0)
    assert done.returncode == 1
    assert "trainer 0 (rank 2) on host" in done.stderr
    assert "ValueError: the model fails on purpose" in done.stderr
    assert "GeneratorExit" not in done.stderr
