"""Directories for temporary files, and what is left of them when a process ends."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from bagpipe_hpc.scratch import scratch_directory
from tests.launch import start_command

PROGRAM = """
import sys, time
from bagpipe_hpc.scratch import scratch_directory
with scratch_directory("bagpipe-test-") as directory:
    (directory / "file").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_it_is_gone_after_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    with scratch_directory("a-") as directory:
        (directory / "inside").mkdir()
        assert directory.parent == tmp_path
    assert not any(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_removes_it_and_ends_the_process(tmp_path: Path, signum: signal.Signals) -> None:
    from sys import executable

    with start_command([executable, "-c", PROGRAM], env={"TMPDIR": str(tmp_path)}) as run:
        deadline = time.monotonic() + 30
        while "ready" not in run.output():
            assert time.monotonic() < deadline, run.output()
            time.sleep(0.02)
        run.process.send_signal(signum)
        done = run.wait(30)
    assert done.returncode == -signum, done.stderr
    assert not any(tmp_path.iterdir())
