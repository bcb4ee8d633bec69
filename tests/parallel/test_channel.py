"""Plans from the oracle to everybody."""

from __future__ import annotations

from pathlib import Path

from tests.launch import run_ranks


def test_plans_arrive_in_order_and_only_so_far_ahead() -> None:
    done = run_ranks(3, ["-m", "mpi4py", str(Path(__file__).parent / "programs" / "channel.py")], timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
