"""A disk of a few pages, to fill it up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs at `path`, mounted while the `with` block runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, num_bytes: int) -> None:
        """Make room for so much, rounded up to pages."""
        _mount("-o", f"remount,size={num_bytes}", str(self.path))

    def names(self) -> list[str]:
        """What lies on it."""
        return sorted(os.listdir(self.path))


@contextmanager
def small_disk(path: Path, num_bytes: int) -> Iterator[SmallDisk]:
    """Mount a small disk on a directory that does not exist yet; skips the test where that is not allowed."""
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    try:
        _mount("-t", "tmpfs", "-o", f"size={num_bytes}", "small", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=60)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=60)
