"""A checkpoint that is being written, and the one rename that commits it.

This is the order of the calls, and who makes them. The modules of the roles exchange the orders and reports; no method
here communicates.

        oracle (rank 0)                                   every rank, in a thread
    1   create(), then an order of a snapshot in
        the stream of plans                      ----->
    2                                                     write its files; each is fsynced, then hashed
    3   receive the file entries of all ranks    <-----   report the file entries
    4   commit(manifest)
            manifest.json written, fsynced; then the directory fsynced
            .partial-... renamed to iteration-...; then the parent directory fsynced
            `latest` written beside, fsynced, renamed; then the parent directory fsynced

A power failure at any moment leaves either the previous checkpoint and `latest`, or the new ones, complete. If a rank
fails in 2, the whole job ends, and `discard_unfinished` deletes the directory. If the oracle gives the checkpoint up,
it calls discard() instead of 4, when no rank writes any more.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bagpipe_hpc.checkpoint.dense_file import DenseState, store_dense
from bagpipe_hpc.checkpoint.durable import (
    discard_directory,
    file_entry,
    move_away,
    sync_directory,
    write_durably,
    writing,
)
from bagpipe_hpc.checkpoint.file_names import (
    DENSE_FILE,
    LATEST,
    MANIFEST,
    ORACLE_FILE,
    checkpoint_name,
    generation_of_partial,
    partial_name,
    server_file,
    trainer_file,
)
from bagpipe_hpc.checkpoint.generation import require_newest, writing_as
from bagpipe_hpc.checkpoint.manifest import FileEntry, Manifest
from bagpipe_hpc.checkpoint.merge import Rows
from bagpipe_hpc.checkpoint.pointer import write_pointer
from bagpipe_hpc.checkpoint.row_file import CachedRows, RowFileWriter, RowOptions
from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.threaded_job import current_job

EXACT = RowOptions()
DISCARD_SECONDS = 5.0  # the end of a job waits no longer than this for a file system

_unfinished: set[tuple[Path, int]] = set()  # directories and generations of the jobs that this process writes for


@dataclass(frozen=True)
class PartialCheckpoint:
    """One checkpoint that is being written. Every rank has an equal object.

    Args:
        root: The checkpoint directory, on a file system that all ranks see.
        generation: The generation that `claim_generation` returned.
        iteration: The number of training iterations that are part of the state.
        row_width: float32 columns of a row.

    Every method raises FencedError if a later generation owns the directory, and CheckpointError, which names the file,
    if a file cannot be written.
    Communication: none.
    """

    root: Path
    generation: int
    iteration: int
    row_width: int

    @property
    def path(self) -> Path:
        """The directory in which ranks write files."""
        return self.root / partial_name(self.generation, self.iteration)

    @property
    def committed_path(self) -> Path:
        """The directory after the commit."""
        return self.root / checkpoint_name(self.iteration)

    def create(self) -> None:
        """Remove what earlier attempts of this generation left; make the directory. Rank 0 calls it first."""
        with self._writing(self.path):
            _discard_of(self.root, self.generation)
            self.path.mkdir()
        # Check again: a later generation removes the directories it finds, but may have looked before this one existed.
        require_newest(self.root, self.generation)

    def write_server(self, server: int, pieces: Iterable[Rows], options: RowOptions = EXACT) -> FileEntry:
        """Write a server's rows.

        Args:
            server: Server index.
            pieces: Keys int64, shape (n,), ascending, also across pieces; rows float32, shape (n, row_width). All
                updated rows of the shard or, in an increment, those that changed since the parent.
            options: How rows are stored.
        """
        path = self.path / server_file(server)
        with self._writing(path):
            with RowFileWriter(path, self.row_width, options, is_cache=False) as writer:
                for keys, rows in pieces:
                    writer.append(keys, rows)
            return file_entry(path)

    def write_trainer(
        self, trainer: int, pieces: Iterable[CachedRows], state: Tree = None, options: RowOptions = EXACT
    ) -> FileEntry:
        """Write all rows in a trainer's cache, in an increment, too, and the state that only this trainer has."""
        path = self.path / trainer_file(trainer)
        with self._writing(path):
            with RowFileWriter(path, self.row_width, options, is_cache=True) as writer:
                for piece in pieces:
                    writer.append_cached(piece)
                writer.store_state(state)
            return file_entry(path)

    def write_dense(self, dense: DenseState) -> FileEntry:
        """Write the state that all trainers have in common. One trainer calls it."""
        return self._write_dense(DENSE_FILE, dense)

    def write_oracle(self, state: Tree) -> FileEntry:
        """Write the state that only the oracle has."""
        return self._write_dense(ORACLE_FILE, DenseState({}, state))

    def write_extra(self, name: str, content: bytes) -> FileEntry:
        """Write any other file that belongs to the checkpoint, such as the history of metrics."""
        path = self.path / name
        with self._writing(path):
            write_durably(path, content)
            return file_entry(path)

    def commit(self, manifest: Manifest) -> Path:
        """Make the checkpoint visible in one step. Rank 0 calls it when every rank has written its files.

        Returns:
            The committed directory. It replaces one of the same iteration that an abandoned run has left.
        """
        self._require_own(manifest)
        with self._writing(self.path / MANIFEST):
            write_durably(self.path / MANIFEST, manifest.to_json())
            sync_directory(self.path)
        with self._writing(self.committed_path):
            self._take_name()
            sync_directory(self.root)
        with self._writing(self.root / LATEST):
            write_pointer(self.root / LATEST, self.committed_path.name)
        return self.committed_path

    def discard(self) -> None:
        """Delete the files; no committed checkpoint changes. Rank 0 calls it when all ranks have stopped writing."""
        with writing(self.path):
            discard_directory(self.path)

    def _take_name(self) -> None:
        replaced = move_away(self.committed_path)
        try:
            self.path.rename(self.committed_path)
        except OSError:  # a later generation has removed the partial directory: put the replaced directory back
            if replaced is not None:
                replaced.rename(self.committed_path)
            raise
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)

    def _write_dense(self, name: str, dense: DenseState) -> FileEntry:
        path = self.path / name
        with self._writing(path):
            store_dense(path, dense)
            return file_entry(path)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            with writing_as(self.root, self.generation, path):
                yield
        except CheckpointError:
            if (job := current_job()) is not None:
                job.check()  # a job that is over deletes the file: raise that, not the file's error
            raise

    def _require_own(self, manifest: Manifest) -> None:
        mine = self.generation, self.iteration, self.row_width
        given = manifest.generation, manifest.iteration, manifest.model.row_width
        if mine != given:
            raise CheckpointError(
                f"{self.path}: the manifest has (generation, iteration, row width) {given}, the files have {mine}"
            )


def expect_unfinished(root: Path, generation: int) -> None:
    """Register a generation whose unfinished checkpoints `discard_unfinished` deletes."""
    _unfinished.add((root, generation))


def discard_unfinished() -> None:
    """Delete this job's unfinished checkpoint, because the job ends with an error; ignore file system errors."""
    attempts = list(_unfinished)
    forget_unfinished()
    if attempts:
        thread = threading.Thread(target=_discard_unfinished, args=(attempts,), name="discard", daemon=True)
        thread.start()
        thread.join(DISCARD_SECONDS)


def forget_unfinished() -> None:
    """Forget the registered generations, because the job has ended well."""
    _unfinished.clear()


def _discard_unfinished(attempts: list[tuple[Path, int]]) -> None:
    for root, generation in attempts:
        with suppress(OSError):
            _discard_of(root, generation)


def _discard_of(root: Path, generation: int) -> None:
    for path in list(root.iterdir()):
        if generation_of_partial(path.name) == generation:
            discard_directory(path)
