"""A pretended job: dictionaries for servers and caches, and the checkpoints it writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.dense_file import DenseState
from bagpipe_hpc.checkpoint.generation import claim_generation
from bagpipe_hpc.checkpoint.manifest import (
    FileEntry,
    Manifest,
    ModelEntry,
    ParentEntry,
    PositionEntry,
    StateEntry,
    TableEntry,
    TopologyEntry,
)
from bagpipe_hpc.checkpoint.partial import EXACT, PartialCheckpoint
from bagpipe_hpc.checkpoint.row_file import CachedRows, RowOptions
from bagpipe_hpc.digest import ModelDigest

Row = NDArray[np.float32]

MODEL = ModelEntry(
    name="dlrm",
    num_dense=2,
    tables=(TableEntry(name="ad", num_embeddings=40), TableEntry(name="site", num_embeddings=7)),
    embedding_dim=3,
    row_optimizer="adagrad",
    row_state=(StateEntry(name="sum", columns=1),),
    dense_optimizer="sgd",
    seed=5,
)
DENSE = DenseState(
    {"top.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "top.0.bias": np.ones(2, np.float32)},
    {"state": {0: {"step": np.array(3.0), "momentum": np.zeros((2, 3))}}, "param_groups": [{"lr": 0.1}]},
)


def manifest_of(files: tuple[FileEntry, ...], **fields: Any) -> Manifest:
    """A manifest of one server and one trainer, unless told otherwise."""
    settings: dict[str, Any] = {
        "iteration": 10,
        "generation": 1,
        "created": datetime(2024, 2, 29, tzinfo=UTC),
        "topology": TopologyEntry(servers=1, trainers=1),
        "window": 8,
        "prefetch_depth": 2,
        "cache_rows": 100,
        "model": MODEL,
        "position": PositionEntry(epoch=0, sample=640),
        **fields,
    }
    return Manifest(files=files, **settings)


class Job:
    """Rows of a job whose numbers of servers and trainers may change between checkpoints."""

    def __init__(
        self, root: Path, seed: int = 0, options: RowOptions = EXACT, settings: dict[str, Any] | None = None
    ) -> None:
        self.root = root
        self.settings = settings or {}
        self.options = options
        self.random = random.Random(seed)
        self.generation = claim_generation(root)
        self.iteration = 0
        self.parent: ParentEntry | None = None
        self.depth = 0
        self.current: dict[int, Row] = {}  # what every touched row is worth
        self.on_servers: dict[int, Row] = {}
        self.changed: set[int] = set()  # rows written to the servers since the last checkpoint
        self.cached: dict[int, bool] = {}  # key -> dirty

    def train(self, iterations: int = 1, rows: int = 8) -> None:
        """Update random rows: some are cached then, some cached ones leave."""
        for _ in range(iterations):
            self.iteration += 1
            for key in self.random.sample(range(MODEL.key_space.num_keys), rows):
                self.cached[key] = True
                self.current[key] = np.array([self.random.random() for _ in range(MODEL.row_width)], np.float32)
            for key in self.random.sample(sorted(self.cached), len(self.cached) // 2):
                if self.cached.pop(key):
                    self.on_servers[key] = self.current[key]
                    self.changed.add(key)
            for key in self.random.sample(range(MODEL.key_space.num_keys), 2):  # as read-only iterations do
                self.cached.setdefault(key, False)

    def save(self, servers: int = 1, trainers: int = 1, *, increment: bool = False) -> Path:
        """Write and commit a checkpoint."""
        partial = PartialCheckpoint(self.root, self.generation, self.iteration, MODEL.row_width)
        partial.create()
        keys = sorted(self.changed if increment else self.on_servers)
        files = [partial.write_server(s, self._server_pieces(keys, s, servers), self.options) for s in range(servers)]
        for trainer in range(trainers):
            pieces = self._cache_pieces(trainer, trainers)
            files.append(partial.write_trainer(trainer, pieces, {"rng": np.arange(trainer + 1)}, self.options))
        files.append(partial.write_dense(DENSE))
        files.append(partial.write_extra("metrics.jsonl", b"{}\n"))
        path = partial.commit(
            manifest_of(
                tuple(files),
                iteration=self.iteration,
                generation=self.generation,
                topology=TopologyEntry(servers=servers, trainers=trainers),
                parent=self.parent if increment else None,
                depth=self.depth + 1 if increment else 0,
                config=self.settings,
            )
        )
        self.parent = Checkpoint.open(path).chain[-1].as_parent
        self.depth = self.depth + 1 if increment else 0
        self.changed = set()
        return path

    def digest(self) -> str:
        """The model digest of the rows as they are."""
        digest = ModelDigest()
        digest.add_dense(DENSE.parameters)
        for key in sorted(self.current):
            digest.add_rows(np.array([key]), self.current[key].reshape(1, -1))
        return digest.hexdigest()

    def _server_pieces(self, keys: list[int], server: int, servers: int) -> Iterator[tuple[NDArray[np.int64], Row]]:
        mine = [key for key in keys if key % servers == server]
        for start in range(0, len(mine), 5):
            piece = mine[start : start + 5]
            yield np.array(piece), np.array([self.on_servers[key] for key in piece])

    def _cache_pieces(self, trainer: int, trainers: int) -> Iterator[CachedRows]:
        mine = [key for key in sorted(self.cached) if key // 3 % trainers == trainer]
        clean = np.full(MODEL.row_width, -1, np.float32)  # a clean row's values must not matter
        for start in range(0, len(mine), 4):
            piece = mine[start : start + 4]
            dirty = np.array([self.cached[key] for key in piece])
            rows = np.array([self.current[key] if self.cached[key] else clean for key in piece])
            yield CachedRows(np.array(piece), np.arange(start, start + len(piece), dtype=np.int32), dirty, rows)
