"""A job that is stuck on purpose: the watchdog writes stacks, names the rank that stands still, and ends the job."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.integration.jobs import START_SECONDS, command, wait_for_training
from tests.launch import start_ranks


def test_a_rank_that_stands_still_is_named(small_dataset: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1000000", "training.batch_size=50", "watchdog.seconds=5", "watchdog.ends_job=true"]
    with start_ranks(4, command(small_dataset, tmp_path / "run", *settings)) as run:
        wait_for_training(run, tmp_path / "run", num_lines=2)
        run.kill_rank(1, signal.SIGSTOP)
        done = run.wait(START_SECONDS)
    assert done.returncode == 1, done.stderr
    assert "server 0 (rank 1) has written nothing: its process or its host does not run" in done.stderr
    assert "trainer 0 (rank 2), thread prefetch, has waited " in done.stderr
    assert " s for server 0: rows of plan " in done.stderr
    assert "bagpipe: error: oracle (rank 0) on host " in done.stderr
    for rank in (0, 2, 3):
        stacks = (tmp_path / "run" / "watchdog" / f"rank{rank}.txt").read_text()
        assert "thread MainThread:" in stacks
    assert "in fetch" in stacks
