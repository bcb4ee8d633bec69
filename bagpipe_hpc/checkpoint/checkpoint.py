"""A committed checkpoint: a full one and the increments from it up to the requested one.

The value of a row is in the last of these files that has its key. For each checkpoint of the chain, beginning with the
full one: the servers' files, then the dirty rows of the trainers' files. Keys do not depend on the topology, so the
checkpoints of a chain may have different numbers of servers and trainers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bagpipe_hpc.bounded_json import read_bounded
from bagpipe_hpc.checkpoint.dense_file import DenseState, load_dense
from bagpipe_hpc.checkpoint.durable import file_entry
from bagpipe_hpc.checkpoint.file_names import (
    BEST,
    CHECKPOINTS,
    DENSE_FILE,
    LATEST,
    MANIFEST,
    ORACLE_FILE,
    iteration_of,
    server_file,
    servers_to_read,
    trainer_file,
)
from bagpipe_hpc.checkpoint.hdf5 import CHUNK_BYTES, chunk_rows, damaged
from bagpipe_hpc.checkpoint.manifest import MEND, FileEntry, Manifest, ParentEntry, read_manifest
from bagpipe_hpc.checkpoint.merge import Rows, merge_newest
from bagpipe_hpc.checkpoint.pointer import named_by
from bagpipe_hpc.checkpoint.row_file import CachedRows, CachedSlots, RowFile
from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.data.hdf5 import require_regular_file
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.sharding import Sharding

_PIECE_BYTES = 16 << 20
_SLOTS_PER_PIECE = 1 << 20
_MERGE_BYTES = 512 << 20  # bytes of the pieces of all files together


@dataclass(frozen=True)
class Saved:
    """One committed directory, without the checkpoints that it builds on."""

    path: Path
    manifest: Manifest
    manifest_sha256: str

    @classmethod
    def load(cls, path: Path) -> Saved:
        """Return the checkpoint in a directory, after reading its manifest.

        Raises:
            CheckpointError: The manifest is missing, damaged or that of another iteration.
        """
        manifest, sha256 = read_manifest(path)
        if iteration_of(path.resolve().name) not in (None, manifest.iteration):
            raise CheckpointError(
                f"{path / MANIFEST} is that of iteration {manifest.iteration}; give the directory its old name"
            )
        return cls(path, manifest, sha256)

    @property
    def as_parent(self) -> ParentEntry:
        """Return the entry with which an increment refers to this checkpoint."""
        return ParentEntry(name=self.path.resolve().name, manifest_sha256=self.manifest_sha256)

    def check_file(self, entry: FileEntry, *, content: bool = True) -> None:
        """Compare a file with the manifest: its size and, unless `content` is False, its SHA-256.

        Raises:
            CheckpointError: Names the file and what is wrong with it.
        """
        path = self.path / entry.name
        try:
            require_regular_file(path)
            num_bytes = path.stat().st_size
            if num_bytes != entry.num_bytes:
                raise damaged(path, f"it has {num_bytes} bytes, not {entry.num_bytes}")
            if content and (found := file_entry(path)).sha256 != entry.sha256:
                raise damaged(path, f"its SHA-256 is {found.sha256}, not {entry.sha256}")
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing; use another checkpoint") from None
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror or error}; use another checkpoint"
            ) from error

    def row_files(self) -> list[RowFile]:
        """Return the files of all servers, then those of all trainers."""
        topology = self.manifest.topology
        return [*self.server_files(range(topology.servers)), *map(self.trainer_file, range(topology.trainers))]

    def server_files(self, servers: range | list[int]) -> list[RowFile]:
        """Return the files of some servers."""
        model, num_servers = self.manifest.model, self.manifest.topology.servers
        return [
            RowFile(
                self.path / server_file(server), model.row_width, model.key_space.num_keys, shard=(server, num_servers)
            )
            for server in servers
        ]

    def trainer_file(self, trainer: int) -> RowFile:
        """Return the file of one trainer."""
        model, path = self.manifest.model, self.path / trainer_file(trainer)
        return RowFile(path, model.row_width, model.key_space.num_keys, self.manifest.cache_rows)


@dataclass(frozen=True)
class Checkpoint:
    """The state after an iteration.

    Args:
        chain: A full checkpoint, then increments, each building on the one before it. The last is the requested one.
    """

    chain: tuple[Saved, ...]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a checkpoint: read the manifests of its chain, and check that the files have the right sizes.

        Args:
            path: A checkpoint `.../iteration-...`; or `.../best` or `.../latest`, which name one; or a directory of
                checkpoints or a run directory, for the checkpoint that its `latest` names.
        Raises:
            CheckpointError: A checkpoint of the chain is missing, damaged or was replaced.
        """
        chain = [Saved.load(_resolve(path))]
        while (parent := chain[0].manifest.parent) is not None:
            saved = Saved.load(chain[0].path.resolve().parent / parent.name)
            if saved.manifest_sha256 != parent.manifest_sha256:
                raise CheckpointError(
                    f"{chain[0].path} is an increment on another {parent.name} than the one beside it, which is newer "
                    "or damaged; use another checkpoint"
                )
            if saved.manifest.model != chain[0].manifest.model or saved.manifest.depth != chain[0].manifest.depth - 1:
                raise damaged(chain[0].path / MANIFEST, f"{parent.name} is not of the same model, one increment before")
            chain.insert(0, saved)
        for saved in chain:
            for entry in saved.manifest.files:
                saved.check_file(entry, content=False)
        return cls(tuple(chain))

    @property
    def path(self) -> Path:
        """The directory of the checkpoint."""
        return self.chain[-1].path

    @property
    def manifest(self) -> Manifest:
        """The manifest of the checkpoint."""
        return self.chain[-1].manifest

    def server_rows(self, server: int, num_servers: int) -> Iterator[Rows]:
        """Yield the rows of one server of a job with any number of servers, including cached rows, in pieces.

        A later piece supersedes an earlier one with the same key, so scatter the pieces in order. Only the files that
        may hold the server's keys are read, each once, from start to end.

        Yields:
            Keys of this server, int64, shape (n,), unique within a piece; rows, float32, shape (n, row_width).
        """
        sharding = Sharding(self.manifest.model.key_space.num_keys, num_servers)
        for saved in self.chain:
            topology = saved.manifest.topology
            files = saved.server_files(servers_to_read(server, num_servers, topology.servers))
            for file in [*files, *map(saved.trainer_file, range(topology.trainers))]:
                for keys, rows in file.pieces(self._rows_per_piece(_PIECE_BYTES)):
                    mine = sharding.server_of(keys) == server
                    yield (keys, rows) if mine.all() else (keys[mine], rows[mine])

    def cached_rows(self, trainer: int) -> Iterator[CachedRows]:
        """Yield what is in one trainer's cache, in pieces in ascending key order, for a job of the same topology."""
        return self.chain[-1].trainer_file(trainer).cached_pieces(self._rows_per_piece(_PIECE_BYTES))

    def cached_slots(self, trainer: int) -> Iterator[CachedSlots]:
        """Yield the same as `cached_rows`, without the rows themselves."""
        return self.chain[-1].trainer_file(trainer).slot_pieces(_SLOTS_PER_PIECE)

    def trainer_state(self, trainer: int) -> Tree:
        """Return what one trainer alone has saved besides its rows."""
        return self.chain[-1].trainer_file(trainer).state()

    def dense(self) -> DenseState:
        """Return the dense parameters and the state of their optimizer."""
        return load_dense(self.path / DENSE_FILE)

    def oracle_state(self) -> Tree:
        """Return what the oracle alone has saved; None if it has saved nothing."""
        if all(entry.name != ORACLE_FILE for entry in self.manifest.files):
            return None
        return load_dense(self.path / ORACLE_FILE).state

    def extra(self, name: str) -> bytes:
        """Return a file that `PartialCheckpoint.write_extra` wrote, after comparing it with its checksum."""
        try:
            entry = self.manifest.entry(name)
        except KeyError:
            raise CheckpointError(f"{self.path} has no file {name}; use another checkpoint") from None
        self.chain[-1].check_file(entry)
        return read_bounded(self.path / name, max_bytes=entry.num_bytes, error=CheckpointError, mend=MEND)

    def merged_rows(self) -> Iterator[Rows]:
        """Yield every updated row once, in pieces in ascending key order. Memory does not grow with the checkpoint."""
        files = [file for saved in self.chain for file in saved.row_files()]
        piece_bytes = min(_PIECE_BYTES, max(4 * CHUNK_BYTES, _MERGE_BYTES // len(files)))
        return merge_newest([file.pieces(self._rows_per_piece(piece_bytes)) for file in files])

    def digest(self) -> str:
        """Return the `model_digest` of a job that ends at this checkpoint."""
        digest = ModelDigest()
        digest.add_dense(self.dense().parameters)
        for keys, rows in self.merged_rows():
            digest.add_rows(keys, rows)
        return digest.hexdigest()

    def _rows_per_piece(self, num_bytes: int) -> int:
        """Return the number of rows in about num_bytes, rounded to whole HDF5 chunks."""
        return chunk_rows(self.manifest.model.row_width) * (num_bytes // CHUNK_BYTES)


def saved_checkpoints(root: Path) -> list[Path]:
    """Return the committed directories in a directory, ordered by iteration.

    Raises:
        CheckpointError: There is no such directory.
    """
    try:
        return sorted(path for path in root.iterdir() if iteration_of(path.name) is not None)
    except OSError as error:
        raise CheckpointError(f"{root} cannot be read: {error.strerror}; name a directory of checkpoints") from None


def directory_of_checkpoints(path: Path) -> Path:
    """Return `path/checkpoints` if `path` is a run directory, else `path` itself."""
    inside = path / CHECKPOINTS
    return inside if inside.is_dir() and not _has_checkpoints(path) else path


def _has_checkpoints(path: Path) -> bool:
    is_one = any((path / name).exists() for name in (MANIFEST, LATEST, BEST))
    return is_one or any(iteration_of(found.name) is not None for found in path.iterdir())


def _resolve(path: Path) -> Path:
    if path.name in (LATEST, BEST) and not path.exists():
        path = directory_of_checkpoints(path.parent) / path.name
    path = directory_of_checkpoints(path)
    if path.name in (LATEST, BEST) and path.is_file():
        return named_by(path) or path
    if (path / MANIFEST).exists():
        return path
    return named_by(path / LATEST) or path
