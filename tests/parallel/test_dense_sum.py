"""Every backend keeps the contract of `tests/dense_sum.py`. With two trainers, Horovod's bits are those of MPI's."""

from __future__ import annotations

from pathlib import Path

from tests.launch import run_ranks


def test_contract() -> None:
    program = str(Path(__file__).parent / "programs" / "dense_sum.py")
    done = run_ranks(4, ["-m", "mpi4py", program], timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all sums are right" in done.stdout
