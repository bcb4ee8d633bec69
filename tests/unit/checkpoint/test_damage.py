"""Whatever happens to files or to the writer, the checkpoint before stays loadable and the message names the file."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint, directory_of_checkpoints, saved_checkpoints
from bagpipe_hpc.checkpoint.file_names import LATEST
from bagpipe_hpc.checkpoint.partial import PartialCheckpoint, discard_unfinished, expect_unfinished
from bagpipe_hpc.checkpoint.pointer import write_pointer
from bagpipe_hpc.checkpoint.verify import newest_good
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.threaded_job import JobIsOverError, ThreadedJob
from tests.launch import run_python
from tests.unit.checkpoint.job import MODEL, Job

FILES = ["manifest.json", "server-00000.h5", "server-00001.h5", "trainer-00000.h5", "dense.h5", "metrics.jsonl"]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two full checkpoints of one job, each of two servers."""
    job = Job(tmp_path)
    job.train(3)
    older = job.save(servers=2)
    job.train(3)
    return older, job.save(servers=2)


def assert_falls_back(older: Path, newer: Path, named: str) -> None:
    checkpoint, rejected = newest_good(newer.parent)
    assert checkpoint is not None
    assert checkpoint.path == older
    assert [one.path for one in rejected] == [newer]
    assert named in rejected[0].fault
    assert len(checkpoint.digest()) == 64


def test_without_damage_the_newest_is_taken(two: tuple[Path, Path]) -> None:
    checkpoint, rejected = newest_good(two[1].parent)
    assert checkpoint is not None
    assert (checkpoint.path, rejected) == (two[1], [])
    assert Checkpoint.open(two[1].parent).path == two[1]


def test_a_run_directory_stands_for_its_checkpoints(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    root.mkdir()
    job = Job(root)
    job.train(3)
    path = job.save()
    for name in ("", "latest", "checkpoints", "checkpoints/latest", f"checkpoints/{path.name}"):
        assert Checkpoint.open(tmp_path / name).path == path
    assert directory_of_checkpoints(tmp_path) == root
    assert directory_of_checkpoints(root) == root
    assert directory_of_checkpoints(tmp_path / "absent") == tmp_path / "absent"


def test_an_absent_or_empty_directory_has_none(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])
    assert newest_good(tmp_path / "absent") == (None, [])


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(two: tuple[Path, Path], name: str) -> None:
    path = two[1] / name
    content = path.read_bytes()
    for length in {0, 1, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        if (name, length) != ("manifest.json", len(content) - 1):  # only its last line break is gone
            assert_falls_back(*two, named=str(path))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(two: tuple[Path, Path], name: str) -> None:
    (two[1] / name).unlink()
    assert_falls_back(*two, named=str(two[1] / name))


@pytest.mark.parametrize("name", FILES[1:])
def test_a_flipped_bit_is_named(two: tuple[Path, Path], name: str) -> None:
    path = two[1] / name
    content = path.read_bytes()
    chance = random.Random(name)
    for _ in range(20):
        bit = chance.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert_falls_back(*two, named=str(path))


def test_a_flipped_bit_never_crashes_who_reads_without_verifying(tmp_path: Path) -> None:
    """Every byte of metadata and data has a checksum of HDF5; what has none is not used."""
    job = Job(tmp_path)
    job.train(3)
    path = job.save()
    program = f"""
import random
from pathlib import Path
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.errors import CheckpointError
checkpoint = Checkpoint.open(Path({str(path)!r}))
digest = checkpoint.digest()
chance = random.Random(0)
found = 0
for file in sorted(checkpoint.path.glob("*.h5")):
    content = file.read_bytes()
    for _ in range(60):
        bit = chance.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            assert checkpoint.digest() == digest
        except CheckpointError as error:
            assert file.name in str(error), error
            found += 1
    file.write_bytes(content)
print(found)
"""
    done = run_python(["-c", program], timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_damaged_parent_fails_its_increments_and_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train(2)
    older = job.save()
    job.train()
    parent = job.save()
    job.train()
    increment = job.save(increment=True)
    with open(parent / "server-00000.h5", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    checkpoint, rejected = newest_good(tmp_path)
    assert checkpoint is not None
    assert checkpoint.path == older
    assert [one.path for one in rejected] == [increment, parent]
    assert all(str(parent / "server-00000.h5") in one.fault for one in rejected)


def test_a_half_written_directory_is_no_checkpoint(two: tuple[Path, Path]) -> None:
    shutil.copytree(two[1], two[1].parent / ".partial-000000000001-000000000009")
    assert saved_checkpoints(two[1].parent) == list(two)


def test_a_file_of_another_checkpoint_is_found(two: tuple[Path, Path]) -> None:
    shutil.copy(two[0] / "trainer-00000.h5", two[1] / "trainer-00000.h5")
    assert_falls_back(*two, named=str(two[1] / "trainer-00000.h5"))


def test_a_renamed_directory_is_found(two: tuple[Path, Path]) -> None:
    moved = two[1].parent / "iteration-000000000099"
    two[1].rename(moved)
    assert_falls_back(two[0], moved, named="is that of iteration 6")


def test_latest_that_names_no_checkpoint(two: tuple[Path, Path]) -> None:
    root = two[1].parent
    write_pointer(root / LATEST, "../../etc")
    with pytest.raises(CheckpointError, match=r"names '\.\./\.\./etc', which is no checkpoint"):
        Checkpoint.open(root)
    assert newest_good(root)[0] is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here; only root may")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


FILL = """
import sys
import numpy as np
from pathlib import Path
from bagpipe_hpc.checkpoint.partial import PartialCheckpoint
from bagpipe_hpc.errors import CheckpointError
partial = PartialCheckpoint(Path(sys.argv[1]), 1, 99, 64)
partial.create()
pieces = ((np.arange(start, start + 999), np.ones((999, 64), np.float32)) for start in range(0, 99999, 999))
try:
    partial.write_server(0, pieces)
except CheckpointError as error:
    print(error)
    partial.discard()
"""


def test_a_full_disk_is_an_error_and_not_a_crash(small_disk: Path) -> None:
    job = Job(small_disk)
    job.train()
    older = job.save()
    done = run_python(["-c", FILL, str(small_disk)], timeout=60)
    assert done.returncode == 0, done.stderr
    assert "server-00000.h5 cannot be written: No space left on device; free space" in done.stdout
    found = newest_good(small_disk)[0]
    assert found is not None
    assert found.path == older


def test_a_full_disk_at_every_step_leaves_the_checkpoint_before(small_disk: Path) -> None:
    job = Job(small_disk)
    job.train()
    job.save()
    refused = 0
    for free in range(0, 1_500_000, 100_000):
        ballast = small_disk / "ballast"
        room = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(max(0, room - free)))
        job.train(1, rows=2)
        before = newest_good(small_disk)[0]
        try:
            job.save(servers=2)
        except CheckpointError as error:
            refused += 1
            assert "No space left on device" in str(error)  # noqa: PT017
            after = newest_good(small_disk)[0]
            assert before is not None
            assert after is not None
            assert after.path == before.path
        ballast.unlink()
        for path in saved_checkpoints(small_disk)[:-1]:
            shutil.rmtree(path)
    assert refused > 0


def test_a_read_only_directory_is_named(tmp_path: Path, small_disk: Path) -> None:
    job = Job(small_disk)
    job.train()
    older = job.save()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    job.train()
    with pytest.raises(CheckpointError, match=r"\.partial-.* cannot be written: Read-only file system; .*permissions"):
        job.save()
    found = newest_good(small_disk)[0]
    assert found is not None
    assert found.path == older


def test_a_killed_writer_leaves_every_checkpoint_it_reported(tmp_path: Path) -> None:
    done = run_python(["-m", "tests.unit.checkpoint.killed_writer", str(tmp_path), "40"], timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 40


def test_a_job_that_fails_leaves_nothing_unfinished_of_its_own(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train()
    job.save()
    mine = PartialCheckpoint(tmp_path, job.generation, 99, MODEL.row_width)
    mine.create()
    mine.write_extra("metrics.jsonl", b"{}")
    other = PartialCheckpoint(tmp_path, job.generation + 1, 99, MODEL.row_width)
    other.path.mkdir()
    expect_unfinished(tmp_path, job.generation)
    expect_unfinished(tmp_path / "absent", 1)
    discard_unfinished()
    assert not mine.path.exists()
    assert other.path.exists()
    assert len(saved_checkpoints(tmp_path)) == 1


def test_who_still_writes_when_the_job_is_over_does_not_complain(tmp_path: Path) -> None:
    job = Job(tmp_path)
    partial = PartialCheckpoint(tmp_path, job.generation, 99, MODEL.row_width)
    threaded = ThreadedJob()
    threaded.adopt()
    try:
        with pytest.raises(CheckpointError, match="No such file"):
            partial.write_extra("metrics.jsonl", b"{}")
        threaded.fail("server 0", CheckpointError("on purpose"))
        with pytest.raises(JobIsOverError):
            partial.write_extra("metrics.jsonl", b"{}")
    finally:
        threaded.leave()


def test_a_failed_attempt_is_cleared_by_the_next(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train()
    attempt = PartialCheckpoint(tmp_path, job.generation, 7, MODEL.row_width)
    attempt.create()
    attempt.write_extra("metrics.jsonl", b"")
    job.save()
    assert not attempt.path.exists()
