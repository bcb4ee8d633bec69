"""The oracle's part of a checkpoint: it orders a snapshot, notes what every rank has written, and commits.

oracle                                     servers, trainers
  1 begin: create the partial checkpoint     |
  2 send the order of a snapshot --------->  3 keep the state after the iteration
  | (other plans)                            4 a thread writes the files (runtime/file_writer.py)
  5 take: note the files  <---------------   |  FilesSaved
  6 all files, history and evaluations are there: a thread writes the oracle's files and commits
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.durable import writing
from bagpipe_hpc.checkpoint.file_names import BEST, EVALUATIONS_FILE, METRICS_FILE, checkpoint_name, iteration_of
from bagpipe_hpc.checkpoint.manifest import (
    FileEntry,
    Manifest,
    ModelEntry,
    ParentEntry,
    PositionEntry,
    TopologyEntry,
)
from bagpipe_hpc.checkpoint.partial import PartialCheckpoint
from bagpipe_hpc.checkpoint.pointer import write_pointer
from bagpipe_hpc.checkpoint.prune import prune
from bagpipe_hpc.oracle.plan_stream import Boundary
from bagpipe_hpc.oracle.progress import History
from bagpipe_hpc.oracle.saved_state import oracle_tree
from bagpipe_hpc.protocol.codec import PlanMessages, SnapshotOrders, encode_snapshot
from bagpipe_hpc.protocol.messages import FilesSaved
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.runtime.data_position import TrainingRange
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.topology import Topology


@dataclass
class _Open:
    """A checkpoint that is being written."""

    partial: PartialCheckpoint
    boundary: Boundary
    is_full: bool
    started: float
    saved: list[FilesSaved] = field(default_factory=list)
    history: History | None = None
    evaluations: bytes | None = None
    is_abandoned: bool = False  # it will be deleted, not committed, as soon as no rank writes to it

    @property
    def has_oracle_state(self) -> bool:
        """Whether everything that the oracle itself writes is known."""
        return self.history is not None and self.evaluations is not None


@dataclass
class CheckpointTotals:
    """Figures of all checkpoints of this start.

    Args:
        written: The number of committed checkpoints.
        skipped: The number that was left out because the checkpoint before was still being written.
        bytes_written: The bytes of all files.
        rows_written: The number of rows in all files.
        write_seconds: The time from the order to the commit.
        seconds_after_training: The part of write_seconds in which all iterations of the job were done.
        slowest_seconds: The time of the slowest checkpoint.
        stall_seconds: How long training stood still: for each checkpoint the time of the slowest rank.
    """

    written: int = 0
    skipped: int = 0
    bytes_written: int = 0
    rows_written: int = 0
    write_seconds: float = 0.0
    seconds_after_training: float = 0.0
    slowest_seconds: float = 0.0
    stall_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name, as in summary.json."""
        return dict(vars(self))


class Committer:
    """Writes at most one checkpoint at a time.

    Args:
        spec: The job. It writes checkpoints.
        topology: The roles of the ranks.
        training_range: The training iterations of this start.
        model: The part of the manifest that a job which goes on must agree with.
        cache_rows: Slots per trainer.
        is_pinned: Returns whether the checkpoint of an iteration must be kept. The thread of a commit calls it.
        mpi_version: The version string of the MPI library, for the manifest.
        note_commit: Takes the iteration of each committed checkpoint, and its figures. The thread of a commit calls it.
    """

    def __init__(
        self,
        spec: JobSpec,
        topology: Topology,
        training_range: TrainingRange,
        model: ModelEntry,
        cache_rows: int,
        is_pinned: Callable[[int], bool],
        mpi_version: str,
        note_commit: Callable[[int, Mapping[str, Any]], None] = lambda iteration, figures: None,
    ) -> None:
        assert spec.checkpoints is not None
        self._spec, self._checkpoints = spec, spec.checkpoints
        self._config = spec.config.checkpoint
        self._topology = topology
        self._training_range = training_range
        self._model = model
        self._cache_rows = cache_rows
        self._mpi_version = mpi_version
        self._note_commit = note_commit
        self._open: _Open | None = None
        self._commit: threading.Thread | None = None
        self._parent: ParentEntry | None = None  # the parent of the next increment; None: the next checkpoint is full
        self._depth = 0
        self._is_pinned = is_pinned
        self._latest = self._resumed_iteration()  # iteration of the latest checkpoint, written or being written
        self._best: int | None = None  # iteration of the best checkpoint
        self._named_best: str | None = None  # name of the checkpoint that the pointer file names
        self._naming = threading.Lock()  # the main thread and the thread of a commit name the best checkpoint
        self._training_ended: float | None = None
        self.totals = CheckpointTotals()

    def _resumed_iteration(self) -> int | None:
        resumed = self._spec.resumed
        is_ours = resumed is not None and resumed.parent == self._checkpoints.root.resolve()
        return self._training_range.start.num_trained if is_ours else None

    def has(self, iteration: int) -> bool:
        """Return whether a checkpoint of this iteration exists or is being written."""
        return self._latest == iteration

    def path_of(self, iteration: int) -> Path:
        """Return where the checkpoint of this iteration is, if it exists."""
        return self._checkpoints.root / checkpoint_name(iteration)

    def name_best(self, iteration: int) -> None:
        """Note that the checkpoint of this iteration is the best, and name it in the pointer file once it exists."""
        self._best = iteration
        self._name_best()

    def _name_best(self) -> None:
        with self._naming:
            root = self._checkpoints.root
            name = None if self._best is None else checkpoint_name(self._best)
            if name is not None and name != self._named_best and (root / name).exists():
                with writing(root / BEST):
                    write_pointer(root / BEST, name)
                self._named_best = name

    def is_idle(self) -> bool:
        """Return whether no checkpoint is being written. This never blocks."""
        if self._commit is not None and not self._commit.is_alive():
            self._commit = self._open = None
        return self._open is None

    def note_end_of_training(self) -> None:
        """Note that all training iterations are done. From now on the job only evaluates and writes checkpoints."""
        self._training_ended = time.perf_counter()

    def begin(self, boundary: Boundary) -> PlanMessages:
        """Start a checkpoint (1).

        Returns:
            The order of a snapshot for every rank, which the caller sends (2).
        Communication: none.
        """
        assert self._open is None
        is_full = self._parent is None or self._depth + 1 >= self._config.full_every
        partial = self._checkpoints.partial(boundary.num_trained, self._model.row_width)
        partial.create()
        self._open = _Open(partial, boundary, is_full, time.perf_counter())
        self._latest = partial.iteration
        return encode_snapshot(
            SnapshotOrders(boundary.num_trained, is_full, boundary.residents, self._topology.num_servers)
        )

    def take(self, saved: FilesSaved) -> None:
        """Note that one rank has written its files (5)."""
        assert self._open is not None
        assert saved.num_trained == self._open.boundary.num_trained
        self._open.saved.append(saved)
        if saved.fault:
            self._open.is_abandoned = True
        self._commit_if_complete()

    def abandon(self) -> None:
        """Give up the checkpoint that is being written, because training has diverged.

        It is still committed if its history and evaluations are known already.
        """
        if self._open is not None and not self._open.has_oracle_state:
            self._open.is_abandoned = True
            self._commit_if_complete()

    @property
    def awaits_history_of(self) -> int | None:
        """The iteration whose checkpoint waits for its history; None if no checkpoint waits."""
        return self._open.partial.iteration if self._open is not None and self._open.history is None else None

    def note_history(self, history: History) -> None:
        """Take the history of the metrics up to the checkpoint."""
        assert self._open is not None
        self._open.history = history
        self._commit_if_complete()

    @property
    def awaits_evaluations_before(self) -> int | None:
        """The iteration whose checkpoint waits for the evaluations before it; None if no checkpoint waits."""
        return self._open.partial.iteration if self._open is not None and self._open.evaluations is None else None

    def note_evaluations(self, lines: bytes) -> None:
        """Take the evaluations before the checkpoint, as lines of evaluations.jsonl."""
        assert self._open is not None
        self._open.evaluations = lines
        self._commit_if_complete()

    def _commit_if_complete(self) -> None:
        checkpoint = self._open
        assert checkpoint is not None
        if len(checkpoint.saved) < self._topology.world_size - 1:
            return
        if checkpoint.is_abandoned:
            checkpoint.partial.discard()
            self._open = None
        elif checkpoint.has_oracle_state and self._commit is None:
            self._commit = start_thread("commit", self._finish, checkpoint)

    def _finish(self, checkpoint: _Open) -> None:
        """Write the oracle's own files, commit, and delete old checkpoints that need not be kept (6)."""
        assert checkpoint.history is not None
        partial, history = checkpoint.partial, checkpoint.history
        files = [FileEntry(**vars(file)) for saved in checkpoint.saved for file in saved.files]
        files.append(partial.write_extra(METRICS_FILE, history.lines))
        if checkpoint.evaluations:
            files.append(partial.write_extra(EVALUATIONS_FILE, checkpoint.evaluations))
        boundary = checkpoint.boundary
        since = None if checkpoint.is_full or self._parent is None else iteration_of(self._parent.name)
        dynamic = boundary.dynamic() if boundary.dynamic is not None else None
        tree = oracle_tree(history, boundary.assignment, boundary.items, dynamic, since)
        files.append(partial.write_oracle(tree))
        manifest = self._manifest(checkpoint, tuple(files))
        path = partial.commit(manifest)
        self._parent, self._depth = Checkpoint.open(path).chain[-1].as_parent, manifest.depth
        self._name_best()
        prune(self._checkpoints.root, self._config.keep_last, self._config.keep_every, self._is_pinned)
        self._count(checkpoint, manifest)

    def _manifest(self, checkpoint: _Open, files: tuple[FileEntry, ...]) -> Manifest:
        config = self._spec.config
        position = self._training_range.position(checkpoint.partial.iteration)
        return Manifest(
            iteration=checkpoint.partial.iteration,
            generation=self._checkpoints.generation,
            parent=None if checkpoint.is_full else self._parent,
            depth=0 if checkpoint.is_full else self._depth + 1,
            created=datetime.now(UTC),
            topology=TopologyEntry(servers=self._topology.num_servers, trainers=self._topology.num_trainers),
            window=config.window,
            prefetch_depth=config.prefetch_depth,
            cache_rows=self._cache_rows,
            model=self._model,
            position=PositionEntry(epoch=position.epoch, sample=position.sample),
            config=config.model_dump(mode="json"),
            versions=versions_of_job(self._mpi_version),
            files=files,
        )

    def _count(self, checkpoint: _Open, manifest: Manifest) -> None:
        totals = self.totals
        now = time.perf_counter()
        seconds = now - checkpoint.started
        totals.written += 1
        totals.bytes_written += manifest.num_bytes
        totals.rows_written += sum(saved.num_rows for saved in checkpoint.saved)
        totals.write_seconds += seconds
        if self._training_ended is not None:
            totals.seconds_after_training += max(0.0, now - max(self._training_ended, checkpoint.started))
        totals.slowest_seconds = max(totals.slowest_seconds, seconds)
        stall_seconds = max(saved.stall_seconds for saved in checkpoint.saved)
        totals.stall_seconds += stall_seconds
        figures = {"is_full": checkpoint.is_full, "seconds": seconds, "stall_seconds": stall_seconds}
        self._note_commit(checkpoint.partial.iteration, {**figures, "bytes_written": manifest.num_bytes})


def versions_of_job(mpi_version: str) -> dict[str, str]:
    """Return the versions of the libraries that a job depends on, and of its MPI."""
    return {**_versions_of("torch", "numpy", "horovod", "mpi4py"), "mpi": mpi_version}


def _versions_of(*names: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
