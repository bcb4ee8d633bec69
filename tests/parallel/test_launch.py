"""The launcher helper itself: output, status, time limit, nothing left behind."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.launch import run_python, run_ranks

# Spaces around: launchers join what ranks write (MPICH).
SLEEPER = "import os, time; print(f' {os.getpid()} ', flush=True); time.sleep(600)"


def test_every_rank_runs_and_output_comes_back() -> None:
    done = run_ranks(3, ["-c", "print('hello')"], timeout=30)
    assert (done.returncode, done.stdout.split()) == (0, ["hello"] * 3), done.stderr


def test_a_failing_program_reports_its_status() -> None:
    done = run_python(["-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"], timeout=30)
    assert (done.returncode, done.stderr) == (3, "why\n")


def test_the_time_limit_kills_all_ranks_and_shows_the_output() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="killed after 3 s") as error:
        run_ranks(2, ["-c", SLEEPER], timeout=3)
    assert time.monotonic() - began < 20
    pids = [int(word) for word in str(error.value).split() if word.isdigit() and int(word) > 10]
    assert len(pids) == 2
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() - began < 30  # a killed process is there until the system has taken it down
        time.sleep(0.02)
