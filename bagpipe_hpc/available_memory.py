"""Memory that this process may still use: that of the node, or what a batch system's control group leaves of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

# For both versions of control groups: the controller as /proc/self/cgroup names it, the files of limit and usage, and
# the part of memory.stat that the kernel can reclaim.
_VERSIONS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process may still use.

    That is the minimum of what the node has available and of what each control group of this process leaves.
    """
    return min([int(psutil.virtual_memory().available), *_left_by_groups(membership, root)])


def _left_by_groups(membership: Path, root: Path) -> Iterator[int]:
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller, *files in _VERSIONS:
            if controller in controllers.split(","):
                top = root / controller
                group = top / path.lstrip("/")
                for directory in (group, *group.parents):
                    if (left := _left_by(directory, *files)) is not None:
                        yield left
                    if directory == top:
                        break


def _left_by(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        allowed, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # the other version of control groups, or hidden
        return None
    return max(0, int(allowed) - used + int(parts.get(reclaimable, 0))) if allowed.isdigit() else None
