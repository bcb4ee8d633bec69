"""A bound on the processor time of a group of processes: the cpu controller of control groups, version 1 or 2."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
PREFIX = "bagpipe-test"
SECONDS = 10.0  # until the kernel has forgotten the processes that have ended

_numbers = itertools.count()


def why_no_quotas(cgroups: Path = CGROUPS) -> str | None:
    """Return why this process cannot set quotas; None if it can."""
    root = _root(cgroups)
    if root is None:
        return f"CPU quotas need the cpu controller of control groups in {cgroups}"
    return None if os.access(root, os.W_OK) else f"CPU quotas need the right to write to {root}"


class CpuQuota:
    """A control group whose processes together get a number of cores' worth of processor time.

    Args:
        cores: May be a fraction.
        cgroups: Where control groups are mounted.
    """

    def __init__(self, cores: float, cgroups: Path = CGROUPS) -> None:
        root = _root(cgroups)
        if root is None:
            raise RuntimeError(why_no_quotas(cgroups))
        _remove_leftovers(root)
        self.path = root / f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.path.mkdir()
        quota = round(cores * PERIOD_MICROSECONDS)
        if _is_version_2(cgroups):
            (self.path / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
        else:
            (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (self.path / "cpu.cfs_quota_us").write_text(str(quota))

    @property
    def members(self) -> Path:
        """The file that a process writes 0 to in order to join. What it starts from then on is in the group, too."""
        return self.path / "cgroup.procs"

    @property
    def num_throttled(self) -> int:
        """In how many periods the processes had to wait because the quota was used up."""
        statistics = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(statistics["nr_throttled"])

    def remove(self) -> None:
        """Remove the group, after its processes have ended.

        Raises:
            OSError: some process still runs.
        """
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _is_version_2(cgroups: Path) -> bool:
    return (cgroups / "cgroup.controllers").exists()


def _root(cgroups: Path) -> Path | None:
    """Return the directory for groups with quotas, or None if there is none."""
    if not _is_version_2(cgroups):
        return (
            cgroups / "cpu" if (cgroups / "cpu" / "cpu.cfs_quota_us").exists() or (cgroups / "cpu").is_dir() else None
        )
    if "cpu" not in (cgroups / "cgroup.controllers").read_text().split():
        return None
    with suppress(OSError):  # it is switched on already, or the right is missing, which `mkdir` then shows
        (cgroups / "cgroup.subtree_control").write_text("+cpu")
    return cgroups


def _remove_leftovers(root: Path) -> None:
    """Remove groups of processes that have died without removing them."""
    for path in root.glob(f"{PREFIX}-*-*"):
        owner = path.name.split("-")[2]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                path.rmdir()
