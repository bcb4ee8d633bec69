"""The MPI transports keep the contract of `tests/contract.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from tests.contract import SCENARIOS
from tests.launch import run_ranks

PROGRAMS = Path(__file__).parent / "programs"
GIB = 2**30


@pytest.mark.parametrize(("num_trainers", "num_servers"), [(1, 1), (3, 1), (2, 2)])
def test_contract(num_trainers: int, num_servers: int) -> None:
    arguments = ["-m", "mpi4py", str(PROGRAMS / "transport.py"), str(num_servers)]
    done = run_ranks(num_servers + num_trainers, arguments, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as it should be") == 3 * len(SCENARIOS)


def test_nothing_overflows_at_2_gib() -> None:
    free = min(shutil.disk_usage("/dev/shm").free, psutil.virtual_memory().available)
    if free < 8 * GIB:
        pytest.skip(f"two windows of 2.67 GiB need 8 GiB of free memory and /dev/shm, {free / GIB:.1f} GiB are free")
    done = run_ranks(2, ["-m", "mpi4py", str(PROGRAMS / "large_window.py")], timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
