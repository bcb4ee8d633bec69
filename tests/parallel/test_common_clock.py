"""One clock for the traces of all ranks."""

from __future__ import annotations

from pathlib import Path

from tests.launch import run_ranks


def test_ranks_with_clocks_of_their_own_agree_on_a_moment() -> None:
    done = run_ranks(3, ["-m", "mpi4py", str(Path(__file__).parent / "programs" / "common_clock.py")], timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
