"""Jobs whose disk fills up, is taken away, or holds damaged data: the checkpoint before stays, and training goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bagpipe_hpc.checkpoint.verify import newest_good
from tests.integration.jobs import START_SECONDS, command, digest_of, summary_of, train, wait_until
from tests.launch import run_ranks, start_ranks

SETTINGS = ["training.batch_size=50", "training.epochs=1000000", "training.threads=1", "model.embedding_dim=32"]
EVERY = ["checkpoint.every=10", "checkpoint.full_every=1", "checkpoint.keep_last=50"]
RESUME = ("--resume", "auto")

may_mount = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="mounting a small file system needs root",
)


@contextmanager
def mounted(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@may_mount
def test_a_disk_that_fills_up(small_dataset: Path, tmp_path: Path) -> None:
    """The job ends and names the file; with more space it goes on from the last good checkpoint."""
    with mounted(tmp_path / "disk", "8m") as disk:
        arguments = command(small_dataset, tmp_path / "run", *SETTINGS, *EVERY, f"checkpoint.directory={disk}")
        done = run_ranks(4, arguments, timeout=START_SECONDS)
        assert done.returncode not in (0, 75)
        assert f"{disk}/.partial-" in done.stderr
        assert "No space left on device" in done.stderr
        assert not (tmp_path / "run" / "DONE").exists()
        assert list(disk.glob(".partial-*")) == []
        checkpoint, rejected = newest_good(disk)
        assert checkpoint is not None
        assert rejected == []
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        end = f"training.iterations={checkpoint.manifest.iteration + 21}"
        output = train(4, [*arguments, "--set", end, *RESUME])
        assert f"going on from {checkpoint.path}" in output
        train(4, command(small_dataset, tmp_path / "quiet", *SETTINGS, end))
        assert summary_of(tmp_path / "run")["model_digest"] == summary_of(tmp_path / "quiet")["model_digest"]
        assert digest_of(disk) == summary_of(tmp_path / "quiet")["model_digest"]


@may_mount
def test_a_directory_that_becomes_read_only(small_dataset: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1g") as disk:
        settings = [*SETTINGS, *EVERY, f"checkpoint.directory={disk}"]
        with start_ranks(4, command(small_dataset, tmp_path / "run", *settings)) as run:
            wait_until((disk / "latest").exists, run)
            wait_until(lambda: _remounts(disk), run)  # busy while a file is open for writing
            done = run.wait(START_SECONDS)
        assert done.returncode not in (0, 75)
        assert "Read-only file system" in done.stderr
        assert str(disk) in done.stderr
        checkpoint, _ = newest_good(disk)
        assert checkpoint is not None


def _remounts(path: Path) -> bool:
    return subprocess.run(["mount", "-o", "remount,ro", str(path)], check=False, capture_output=True).returncode == 0


def test_a_damaged_shard_is_named_before_it_is_trained_on(small_dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    subprocess.run(["cp", "-r", str(small_dataset), str(data)], check=True)
    shard = data / "train" / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    done = run_ranks(1, ["-m", "bagpipe_hpc", "inspect", str(data), "--verify"], timeout=START_SECONDS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"damaged  {shard}" in done.stdout
    assert done.stdout.count("good ") == 8  # dataset.json and the other shards
    done = run_ranks(4, command(data, tmp_path / "run", *SETTINGS), timeout=START_SECONDS)
    assert done.returncode == 1
    assert str(shard) in done.stderr
    assert not (tmp_path / "run" / "DONE").exists()
