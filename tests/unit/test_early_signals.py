"""Signals while a command starts: the first is kept for the job, another one ends the process."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.launch import Run, start_command

PROGRAM = """
import os, signal, sys, time
from bagpipe_hpc import early_signals
early_signals.REPEAT_SECONDS = float(sys.argv[2])
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where the tests run under nohup
early_signals.keep_signals()
print("ready", flush=True)
while not early_signals._kept:
    time.sleep(0.01)
print("kept", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print([signum.name for signum in early_signals.take_kept_signals()], early_signals.take_kept_signals())
"""


def wait_for(text: str, run: Run) -> None:
    deadline = time.monotonic() + 30
    while text not in run.output():
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_kept(tmp_path: Path, signum: signal.Signals) -> None:
    with start_command([sys.executable, "-c", PROGRAM, str(tmp_path / "go"), "inf"]) as run:
        wait_for("ready", run)
        run.process.send_signal(signum)
        wait_for("kept", run)
        run.process.send_signal(signum)  # a launcher's and a batch system's: one request
        (tmp_path / "go").touch()
        done = run.wait(30)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"['{signum.name}'] []")


def test_another_signal_ends_the_process(tmp_path: Path) -> None:
    with start_command([sys.executable, "-c", PROGRAM, str(tmp_path / "never"), "0"]) as run:
        wait_for("ready", run)
        run.process.send_signal(signal.SIGTERM)
        wait_for("kept", run)
        run.process.send_signal(signal.SIGTERM)
        done = run.wait(30)
    assert done.returncode == -signal.SIGTERM
