"""Limits that one rank runs into end all ranks, and are named."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.integration.jobs import START_SECONDS, command, finish
from tests.launch import run_ranks

MIB = 2**20


def run_limited(rank: int, limit: str, value: int, arguments: list[str]) -> CompletedProcess[str]:
    """Run `bagpipe` on three ranks, one of which has a limit."""
    program = (
        "import os, resource, sys; from tests.launch import rank_in\n"
        f"if rank_in(os.environ) == {rank}: resource.setrlimit(resource.{limit}, ({value}, {value}))\n"
        f"sys.argv = {['bagpipe', *arguments[2:]]!r}; from bagpipe_hpc.cli.main import main; main()"
    )
    return run_ranks(3, ["-c", program], timeout=START_SECONDS)


def test_too_few_open_files_are_refused(small_dataset: Path, tmp_path: Path) -> None:
    done = run_limited(2, "RLIMIT_NOFILE", 16, command(small_dataset, tmp_path / "run"))
    finish(done, 2)
    assert done.stderr.count("bagpipe: error: a rank may have 16 files open (ulimit -n)") == 1, done.stderr


@pytest.mark.parametrize(
    ("rank", "name", "mebibytes", "setting"),
    [(1, "server 0", 1500, "transport=staged"), (2, "trainer 0", 1800, "transport=direct")],
)
def test_a_rank_without_memory_ends_all_ranks(
    small_dataset: Path, tmp_path: Path, rank: int, name: str, mebibytes: int, setting: str
) -> None:
    if sys.platform != "linux":
        pytest.skip("no RLIMIT_AS")
    arguments = command(small_dataset, tmp_path / "run", "model.embedding_dim=4096", "training.batch_size=50", setting)
    done = run_limited(rank, "RLIMIT_AS", mebibytes * MIB, arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("bagpipe: error: ")]
    assert line.startswith(f"bagpipe: error: {name} (rank {rank}) on host "), line
    assert "(ulimit -v" in line
