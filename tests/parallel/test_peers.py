"""Rows between trainers."""

from __future__ import annotations

from pathlib import Path

from tests.launch import run_ranks


def test_blocks_of_any_size_arrive_where_they_belong() -> None:
    done = run_ranks(3, ["-m", "mpi4py", str(Path(__file__).parent / "programs" / "peers.py")], timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
