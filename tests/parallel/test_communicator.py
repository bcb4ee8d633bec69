"""MPI keeps the contract of `tests/communicator.py`."""

from __future__ import annotations

from pathlib import Path

from tests.communicator import CHECKS, SIZE
from tests.launch import run_ranks


def test_contract() -> None:
    program = str(Path(__file__).parent / "programs" / "communicator.py")
    done = run_ranks(SIZE, ["-m", "mpi4py", program], timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CHECKS)} checks passed" in done.stdout
