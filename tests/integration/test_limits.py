"""Limits that one rank runs into end all ranks, and are named."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.integration.jobs import END_SECONDS, START_SECONDS, command, finish, wait_for_training
from tests.launch import run_ranks, start_ranks

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


CGROUPS = (  # of version 1 and 2: where groups are made, and the file that holds the limit
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)

# A rank that runs into the limit of its control group while it trains, as a server whose tables outgrow its job does.
GREEDY = """
import os, sys, threading, time
from pathlib import Path
from tests.launch import rank_in

def grow(group, signal):
    while not signal.exists():
        time.sleep(0.05)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * 2**24))

if rank_in(os.environ) == {rank}:
    threading.Thread(target=grow, args=(Path({group!r}), Path({signal!r})), daemon=True).start()
sys.argv = {arguments!r}
from bagpipe_hpc.cli.main import main
main()
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 64 MiB."""
    for root, limit in CGROUPS:
        group = root / f"bagpipe-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(64 * MIB))
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("needs the right to make a control group with a memory limit")


@pytest.mark.parametrize("rank", [0, 1])  # the oracle, a server
def test_a_rank_that_a_control_group_kills_ends_all_ranks(
    small_dataset: Path, tmp_path: Path, small_group: Path, rank: int
) -> None:
    job = command(small_dataset, tmp_path / "run", "training.epochs=1000000", "training.batch_size=50")
    signal = tmp_path / "grow"
    program = GREEDY.format(rank=rank, group=str(small_group), signal=str(signal), arguments=["bagpipe", *job[2:]])
    with start_ranks(3, ["-c", program]) as run:
        wait_for_training(run, tmp_path / "run")
        signal.touch()
        done = run.wait(END_SECONDS)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
