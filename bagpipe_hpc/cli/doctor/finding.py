"""What a check is, what it can use, and what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bagpipe_hpc.bounded_json import dump_line

if TYPE_CHECKING:
    from bagpipe_hpc.transport.byte_messages import Comm

SETUP = "run env/setup.sh again (delete .venv first if it says that everything is up to date)"


class Status(StrEnum):
    """How good a finding is, from best to worst."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"

    @property
    def severity(self) -> int:
        """Position in the order from harmless to fatal."""
        return list(Status).index(self)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    status: Status
    found: str
    cure: str = ""


@dataclass(frozen=True)
class World:
    """What a check can use.

    Args:
        comm: All ranks of the job; None if MPI cannot be used.
        directory: Where the check may write files.
        num_servers: Embedding servers of the planned job.
    """

    comm: Comm | None
    directory: Path
    num_servers: int = 1

    @property
    def rank(self) -> int:
        """World rank; 0 without MPI."""
        return 0 if self.comm is None else self.comm.rank

    @property
    def ranks(self) -> Comm:
        """The communicator, for checks that need one. Raises RuntimeError if there is none."""
        if self.comm is None:
            raise RuntimeError("not tried, because MPI cannot be used")
        return self.comm


Outcome = tuple[Status, str, str]  # status, what was found, what to do


@dataclass(frozen=True)
class Check:
    """A probe with its name, and the cure to show if it raises or does not end."""

    name: str
    probe: Callable[[World], Outcome]
    cure: str

    def __call__(self, world: World) -> Finding:
        """Run the probe. Whatever it raises becomes its finding."""
        try:
            return Finding(self.name, *self.probe(world))
        except Exception as error:
            first_line = (str(error).strip().splitlines() or ["no message"])[0]
            return Finding(self.name, Status.FAIL, f"{type(error).__name__}: {first_line}", self.cure)


def gather_texts(comm: Comm, text: str) -> list[str]:
    """Return the texts of all ranks, in order of rank, on rank 0; an empty list elsewhere. Nothing is pickled.

    Communication: collective over comm.
    """
    from bagpipe_hpc.transport.collectives import gather_bytes

    return [content.decode() for content in gather_bytes(comm, text.encode()) or ()]


def encode(findings: list[Finding]) -> str:
    """Return findings as JSON text."""
    return dump_line([[f.name, f.status, f.found, f.cure] for f in findings])


def decode(text: str) -> list[Finding]:
    """Return the findings that `encode` wrote."""
    return [Finding(name, Status(status), found, cure) for name, status, found, cure in json.loads(text)]
