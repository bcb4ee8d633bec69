"""Ranks that wait for a late one take almost no processor time. The test measures that, not the time of the wait."""

from __future__ import annotations

from tests.launch import run_ranks


def test_waiting_ranks_sleep() -> None:
    done = run_ranks(2, ["-m", "tests.parallel.programs.idle_waits"], timeout=60)
    assert done.returncode == 0, done.stderr
    assert "all ranks slept" in done.stdout
