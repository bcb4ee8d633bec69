"""The launcher helper itself: output, status, time limit, nothing left behind."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest

from tests.launch import run_python, run_ranks, start_ranks

# Spaces around: launchers join what ranks write (MPICH).
SLEEPER = "import os, time; print(f' pid={os.getpid()} ', flush=True); time.sleep(600)"


def test_every_rank_runs_and_output_comes_back() -> None:
    done = run_ranks(3, ["-c", "print('hello')"], timeout=30)
    assert (done.returncode, done.stdout.split()) == (0, ["hello"] * 3), done.stderr


def test_a_failing_program_reports_its_status() -> None:
    done = run_python(["-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"], timeout=30)
    assert (done.returncode, done.stderr) == (3, "why\n")


def test_the_time_limit_shows_the_output_and_no_rank_is_left() -> None:
    with start_ranks(2, ["-c", SLEEPER]) as run:
        while len(pids_in(run.output())) < 2:
            assert run.process.poll() is None, run.output()
            time.sleep(0.02)
        with pytest.raises(TimeoutError, match="killed after 0 s") as error:
            run.wait(timeout=0)
    pids = pids_in(str(error.value))
    assert len(pids) == 2
    # A killed process is there until the system has taken it down.
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert not any(map(is_alive, pids))


def test_a_run_that_takes_too_long_is_killed() -> None:
    with pytest.raises(TimeoutError, match=r"killed after 0\.1 s"):
        run_ranks(2, ["-c", SLEEPER], timeout=0.1)


def test_files_that_a_killed_launcher_leaves_do_not_stop_another() -> None:
    """Open MPI 5 names TMPDIR/ompi.<process id> after itself, and does not start where one is: ids come again."""
    folder = "import os; print(os.environ['TMPDIR'])"
    first, second = (run_ranks(1, ["-c", folder], timeout=30).stdout.strip() for _ in range(2))
    assert first != second
    assert not Path(first).exists()


def pids_in(output: str) -> list[int]:
    """What the ranks of `SLEEPER` have printed."""
    return [int(pid) for pid in re.findall(r" pid=(\d+) ", output)]


def is_alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
