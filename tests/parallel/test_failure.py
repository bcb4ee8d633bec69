"""A failure of one rank ends the job on all ranks, and says who, where and why."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.launch import run_python, run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "failure.py")
AN_ABORT_RETURNS = """
from bagpipe_hpc.runtime import failure

failure.abort_all_ranks = lambda code: print("abort", code, flush=True)
with failure.whole_job_fails_together("oracle (rank 0)"):
    raise ValueError("why")
print("after the failure")
"""
NAMES = ("oracle (rank 0)", "server 0 (rank 1)", "trainer 0 (rank 2)")


@pytest.mark.parametrize(
    ("rank", "place", "error", "words"),
    [
        (0, "main", "own", "raise cache.rows"),
        (0, "background", "foreign", "ValueError: of a kind"),
        (1, "main", "foreign", "ValueError: of a kind"),
        (1, "background", "own", "raise cache.rows"),
        (2, "main", "exit", "SystemExit: 0"),
        (2, "background", "foreign", "ValueError: of a kind"),
    ],
)
def test_all_ranks_end_and_say_why(rank: int, place: str, error: str, words: str) -> None:
    done = run_ranks(3, [PROGRAM, str(rank), place, error], timeout=30)
    assert done.returncode != 0
    complaint = f"bagpipe: error: {NAMES[rank]} on host {socket.gethostname()}: {words}\n"
    assert done.stderr.count("bagpipe: error:") == done.stderr.count(complaint) == 1, done.stderr
    # The user's own mistakes need no traceback.
    assert ("Traceback" in done.stderr) == (error != "own"), done.stderr


def test_a_rank_ends_even_where_an_abort_returns() -> None:
    done = run_python(["-c", AN_ABORT_RETURNS], timeout=30)
    assert (done.returncode, done.stdout) == (1, "abort 1\n"), done.stderr
