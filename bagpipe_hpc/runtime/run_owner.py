"""The owner of a run directory, and the judgement whether it still runs.

An owner is the process of the oracle. A file that any host can read describes it (`run_lock.py`), so a later start can
find out whether the owner still runs, even if the host of the owner is gone.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # after so long without a heartbeat, an owner counts as dead

# The variables of each batch system: the id of a job, and how often the job was requeued.
_BATCH_SYSTEMS = {
    "Slurm": ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
    "LSF": ("LSB_JOBID", ""),
    "PBS": ("PBS_JOBID", ""),
    "Flux": ("FLUX_JOB_ID", ""),
}


class Verdict(Enum):
    """Whether a directory with an owner may be taken over."""

    FREE = "free"
    HELD = "held"
    UNSURE = "unsure"  # the claimant must wait for the owner's next heartbeat


@dataclass(frozen=True)
class Owner:
    """A start of a job.

    Args:
        token: Distinguishes this claim from all others.
        host: The name of the host.
        machine: Boot id and pid namespace. If it is equal for two processes, each can see whether the other one runs.
        pid: The process id of the oracle.
        process_start: When that process began, in ticks since boot. It is needed because process ids are used again.
        batch_job: The batch system and the job id; empty outside of batch jobs.
        restarts: How often the batch job had been requeued.
        claimed: When this start began, in words.
        is_released: Whether this start has ended.
    """

    token: str
    host: str
    machine: str
    pid: int
    process_start: int
    batch_job: str = ""
    restarts: int = 0
    claimed: str = ""
    is_released: bool = False

    def __str__(self) -> str:
        of_job = f" of {self.batch_job}" if self.batch_job else ""
        restarted = f", restart {self.restarts}" if self.batch_job and self.restarts else ""
        return f"process {self.pid} on host {self.host}{of_job}{restarted}, since {self.claimed}"

    @property
    def process(self) -> tuple[str, int, int]:
        """The identity of the process. It is equal for two claims of one process."""
        return self.machine, self.pid, self.process_start

    def to_tree(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Owner:
        """Return the owner that `to_tree` has turned into JSON values.

        Raises:
            ValueError: the tree has other fields or types.
        """
        expected = {field.name: type(getattr(_EXAMPLE, field.name)) for field in fields(cls)}
        if {name: type(value) for name, value in tree.items()} != expected:
            raise ValueError("the fields of an owner have other names or types")
        return cls(**tree)


_EXAMPLE = Owner("", "", "", 0, 0)


def batch_job_of(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return the batch system and id of the batch job that this process is part of, and how often it was requeued.

    The text is empty outside of batch jobs.
    """
    for system, (job, restarts) in _BATCH_SYSTEMS.items():
        if identifier := environment.get(job):
            count = environment.get(restarts, "")
            return f"{system} job {identifier}", int(count) if count.isdecimal() else 0
    return "", 0


def this_process(environment: Mapping[str, str]) -> Owner:
    """Return this process as an owner."""
    batch_job, restarts = batch_job_of(environment)
    return Owner(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()) or 0,
        batch_job=batch_job,
        restarts=restarts,
        claimed=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def process_start(pid: int) -> int | None:
    """Return when a process of this machine began, in ticks since boot; None if it is dead or a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = status.rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(rest[18])


def judge(
    holder: Owner,
    claimant: Owner,
    silent_seconds: float,
    start_of: Callable[[int], int | None] = process_start,
) -> Verdict:
    """Return whether the claimant may take a directory over.

    Args:
        holder: The present owner of the directory.
        claimant: The process that wants to own it.
        silent_seconds: The time since the last heartbeat of the owner.
        start_of: `process_start` on the machine of the claimant.
    """
    is_requeued = holder.batch_job == claimant.batch_job != "" and holder.restarts < claimant.restarts
    is_earlier_job_of_this_process = holder.process == claimant.process
    if holder.is_released or is_requeued or is_earlier_job_of_this_process or silent_seconds > STALE_SECONDS:
        return Verdict.FREE
    if holder.machine != claimant.machine:
        return Verdict.UNSURE
    return Verdict.HELD if start_of(holder.pid) == holder.process_start else Verdict.FREE


def _machine() -> str:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
