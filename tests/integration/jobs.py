"""Whole jobs on a small data set, started, stopped and started again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from tests.launch import Run, run_ranks

START_SECONDS = 90  # until a job trains, on a slow machine
WATCHDOG = "watchdog.seconds=25"  # so that a job that hangs says where, before the time of its test is up
END_SECONDS = 10  # from a fault until no process is left


def command(dataset: Path, run_dir: Path, *settings: str, options: tuple[str, ...] = ()) -> list[str]:
    """Arguments of `bagpipe train`."""
    overrides = [word for setting in (WATCHDOG, *settings) for word in ("--set", setting)]
    return ["-m", "bagpipe_hpc", "train", "--data", str(dataset), "--run-dir", str(run_dir), *options, *overrides]


def summary_of(run_dir: Path) -> dict[str, Any]:
    """How a run ended."""
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def digest_of(path: Path) -> str:
    """The model digest of a checkpoint, or of the latest of a directory."""
    return Checkpoint.open(path).digest()


def finish(done: CompletedProcess[str], code: int = 0) -> str:
    """See that a job ended as it should; returns its standard output."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def wait_until(happened: Callable[[], bool], run: Run, seconds: float = START_SECONDS) -> None:
    """Wait for something a run does."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert run.process.poll() is None, run.output()
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.02)


def wait_for_training(run: Run, run_dir: Path, num_lines: int = 1) -> None:
    """Wait until a run has written so many lines of metrics."""
    metrics = run_dir / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(metrics.read_bytes().splitlines()) >= num_lines, run)


def train(num_ranks: int, arguments: list[str], code: int = 0) -> str:
    """Run a job to its end; returns its standard output."""
    return finish(run_ranks(num_ranks, arguments, timeout=START_SECONDS), code)
