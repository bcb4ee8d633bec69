"""Memory limits of a batch job count, wherever above the process they are set."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bagpipe_hpc.available_memory import available_bytes

VERSION_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")


def make_group(directory: Path, version: tuple[str, ...], limit: str, usage: int) -> None:
    directory.mkdir(parents=True)
    (directory / version[1]).write_text(f"{limit}\n")
    (directory / version[2]).write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"anon 1\n{version[3]} 100\n")


@pytest.mark.parametrize(("version", "line"), [(VERSION_1, "4:cpu,memory:/job/step"), (VERSION_2, "0::/job/step")])
def test_the_narrowest_group_counts(tmp_path: Path, version: tuple[str, ...], line: str) -> None:
    (tmp_path / "membership").write_text(f"9:pids:/\n{line}\n")
    root = tmp_path / "groups"
    make_group(root / version[0] / "job", version, "5000", 2000)
    make_group(root / version[0] / "job" / "step", version, "9223372036854771712", 1000)
    assert available_bytes(tmp_path / "membership", root) == 5000 - 2000 + 100


def test_without_limits_it_is_what_the_node_has(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/job\n")
    make_group(tmp_path / "groups" / "job", VERSION_2, "max", 1000)
    node = psutil.virtual_memory()
    for membership in (tmp_path / "membership", tmp_path / "none"):
        assert 0.5 * node.available < available_bytes(membership, tmp_path / "groups") <= node.total
