"""Whether a checkpoint is undamaged, and which is the newest undamaged one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint, Saved, saved_checkpoints
from bagpipe_hpc.checkpoint.hdf5 import damaged
from bagpipe_hpc.errors import CheckpointError

_SLOTS_PER_PIECE = 1 << 20


class Verifier:
    """Reads every byte of a checkpoint. It reads a directory once, even if several checkpoints build on it.

    Args:
        progress: Called with what is being read, and how many of its bytes are done.
    """

    def __init__(self, progress: Callable[[str, int, int], None] = lambda phase, done, total: None) -> None:
        self._progress = progress
        self._faults: dict[tuple[Path, str], CheckpointError | None] = {}

    def verify(self, path: Path) -> Checkpoint:
        """Check every file of the chain against the checksums of its manifest and against the format.

        Raises:
            CheckpointError: Names the first faulty file and the fault.
        """
        checkpoint = Checkpoint.open(path)
        for saved in checkpoint.chain:
            fault = self._fault(saved)
            if fault is not None:
                raise fault
        return checkpoint

    def _fault(self, saved: Saved) -> CheckpointError | None:
        key = saved.path.resolve(), saved.manifest_sha256
        if key not in self._faults:
            try:
                self._read(saved)
                self._faults[key] = None
            except CheckpointError as error:
                self._faults[key] = error
        return self._faults[key]

    def _read(self, saved: Saved) -> None:
        # Every file is read twice, for its checksum and for its content.
        phase, done, total = f"reading {saved.path}", 0, 2 * saved.manifest.num_bytes
        self._progress(phase, done, total)
        for entry in saved.manifest.files:
            saved.check_file(entry)
            self._progress(phase, done := done + entry.num_bytes, total)
        for file in saved.row_files():
            file.verify()
            self._progress(phase, done := done + saved.manifest.entry(file.path.name).num_bytes, total)
        _require_single_owners(saved)
        checkpoint = Checkpoint((saved,))
        checkpoint.dense()
        checkpoint.oracle_state()


def _require_single_owners(saved: Saved) -> None:
    """Raise if a row is in more than one cache."""
    files = [saved.trainer_file(trainer) for trainer in range(saved.manifest.topology.trainers)]
    pieces = [[piece.keys for piece in file.slot_pieces(_SLOTS_PER_PIECE)] for file in files]
    owned = [np.concatenate([np.empty(0, np.int64), *of_trainer]) for of_trainer in pieces]
    keys = np.concatenate(owned)
    owners = np.repeat(np.arange(len(owned)), [len(some) for some in owned])
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        first, second = owners[twice[0]], owners[twice[0] + 1]
        raise damaged(files[second].path, f"key {keys[twice[0]]} is also in the cache of trainer {first}")


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that does not verify, and the reason."""

    path: Path
    fault: str


def newest_good(
    root: Path, verify: Callable[[Path], Checkpoint] | None = None
) -> tuple[Checkpoint | None, list[Rejected]]:
    """Return the newest checkpoint that verifies, and the newer ones that do not.

    The newest checkpoint is that of the highest generation and, among these, that of the highest iteration: a job that
    went back to an earlier checkpoint continues from what it has written since. `latest` has no influence.

    Args:
        root: Directory of checkpoints; may be missing or empty.
        verify: Raises CheckpointError for a damaged checkpoint; default: `Verifier`, which reads every byte.
    """
    verify = verify or Verifier().verify
    rejected: list[Rejected] = []
    candidates: list[tuple[int, int, Path]] = []
    for path in reversed(saved_checkpoints(root)) if root.exists() else []:
        try:
            manifest = Saved.load(path).manifest
            candidates.append((manifest.generation, manifest.iteration, path))
        except CheckpointError as error:
            rejected.append(Rejected(path, str(error)))
    for _, _, path in sorted(candidates, reverse=True):
        try:
            return verify(path), rejected
        except CheckpointError as error:
            rejected.append(Rejected(path, str(error)))
    return None, rejected
