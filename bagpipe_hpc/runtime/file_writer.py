"""Checkpoints from the ranks that have the state: servers and trainers write files in a thread, the oracle collects.

oracle (committer.py)                            server, trainer
  1 create the partial directory
  2 snapshot after plan i  ------------------->  3 at the state after i: keep what is needed, hand over to the thread
                                                 4 thread: write, fsync, hash
  6 all files there: commit  <-----------------  5 thread: names and checksums
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from mpi4py import MPI

from bagpipe_hpc.bounded_json import dump_json
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.manifest import FileEntry
from bagpipe_hpc.checkpoint.partial import PartialCheckpoint, expect_unfinished
from bagpipe_hpc.checkpoint.row_file import RowOptions
from bagpipe_hpc.config import CheckpointConfig
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.runtime.signals import FILES_TAG
from bagpipe_hpc.threaded_job import take
from bagpipe_hpc.topology import ORACLE_RANK
from bagpipe_hpc.waiting import note_step


@dataclass(frozen=True)
class CheckpointSpec:
    """What every rank knows of a job's checkpoints.

    Args:
        root: Directory of checkpoints.
        generation: This start of the job.
        resumed: The checkpoint this start goes on from; None: it starts afresh.
        keeps_caches: Whether trainers load their caches: there are as many as there were.
    """

    root: Path
    generation: int
    resumed: Path | None = None
    keeps_caches: bool = False

    def open_resumed(self) -> Checkpoint | None:
        """The checkpoint this start goes on from."""
        return Checkpoint.open(self.resumed) if self.resumed is not None else None

    def partial(self, num_trained: int, row_width: int) -> PartialCheckpoint:
        """Return the checkpoint after so many training iterations, which is being written."""
        expect_unfinished(self.root, self.generation)
        return PartialCheckpoint(self.root, self.generation, num_trained, row_width)


def row_options(config: CheckpointConfig, *, is_full: bool) -> RowOptions:
    """How rows are stored."""
    return RowOptions("float32" if is_full else config.increment_encoding, config.compression)


@dataclass(frozen=True)
class Saved:
    """One rank's part of a checkpoint; its fault is why there must be no such checkpoint, or empty."""

    num_trained: int
    files: tuple[FileEntry, ...]
    num_rows: int
    stall_seconds: float
    fault: str = ""

    def to_bytes(self) -> bytes:
        """As a message."""
        files = [entry.model_dump() for entry in self.files]
        return dump_json([self.num_trained, files, self.num_rows, self.stall_seconds, self.fault], indent=None)

    @classmethod
    def from_bytes(cls, message: bytes) -> Saved:
        """From a message."""
        num_trained, files, num_rows, stall_seconds, fault = json.loads(message)
        return cls(num_trained, tuple(FileEntry(**entry) for entry in files), num_rows, stall_seconds, fault)


class FileWriter:
    """Writes a rank's files one snapshot after the other, in a thread, and tells the oracle.

    An error there ends the job, as any error in a thread does.

    Args:
        events: Everybody -> oracle.
    """

    def __init__(self, events: MPI.Intracomm) -> None:
        self._events = events
        self._orders: Queue[Callable[[], Saved] | None] = Queue()
        self._thread = start_thread("checkpoint", self._run)

    def write(self, order: Callable[[], Saved]) -> None:
        """Do this in the thread."""
        self._orders.put(order)

    def finish(self) -> None:
        """Wait until everything is written."""
        self._orders.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (order := take(self._orders)) is not None:
            self._events.Send([order().to_bytes(), MPI.BYTE], ORACLE_RANK, FILES_TAG)
            note_step()
