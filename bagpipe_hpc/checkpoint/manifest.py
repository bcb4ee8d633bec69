"""The file manifest.json: the content of a checkpoint and the checksum of each of its files. It is written last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bagpipe_hpc.bounded_json import dump_json, parse_json, read_bounded, require_checksum, with_checksum
from bagpipe_hpc.checkpoint.file_names import MANIFEST, files_of, iteration_of
from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.schema import Name
from bagpipe_hpc.data.shard import first_fault
from bagpipe_hpc.dynamic_rules import DynamicSchema, ValueType
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.sharding import Int64Array, KeySpace

FORMAT: Final = "bagpipe_hpc.checkpoint"
FORMAT_VERSION: Final = 1

MAX_BYTES = 64 << 20
MAX_ITERATIONS = 10**12 - 1  # the name of a checkpoint has 12 digits
MEND = "use another checkpoint"

# Far above what any job writes, and small enough that their sums and products do not overflow.
Count = Annotated[int, Field(ge=0, lt=2**53)]
NumEmbeddings = Annotated[int, Field(gt=0, le=2**48)]
Columns = Annotated[int, Field(gt=0, le=2**20)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RowEncoding = Literal["float32", "bfloat16"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file, as its writer completed it."""

    name: Name
    num_bytes: Count
    sha256: Sha256


class TableEntry(_Part):
    """One embedding table."""

    name: str
    num_embeddings: NumEmbeddings
    embedding_dim: Columns | None = None  # columns in use, the first ones; None: all columns
    dynamic: DynamicSchema | None = None  # the rules by which ids get rows; None: rows have fixed meanings
    id_type: ValueType | None = None  # what the ids of a dynamic table are; None: the checkpoint does not say


class ElementEntry(_Part):
    """A value of each element of a sequence. real: float32. integer: int64."""

    name: str
    kind: Literal["real", "integer"]


class SequenceEntry(_Part):
    """What makes a feature a sequence: its row ids are in order, the oldest first."""

    max_length: Count | None = None  # the model gets the newest elements, at most this many; None: all of them
    elements: tuple[ElementEntry, ...] = ()
    along: str | None = None  # the sequence that it is as long as, in every sample


class FeatureEntry(_Part):
    """One feature of the samples: one row id, a bag of any number of row ids, or a sequence.

    The model gets a vector or, of a sequence without `pooling`, all rows in their order.
    """

    name: str
    table: str
    pooling: Literal["sum", "mean"] | None = None
    weighted: bool = False
    sequence: SequenceEntry | None = None  # None: it is none, or the checkpoint does not say


class StateEntry(_Part):
    """Columns of optimizer state at the end of a row, in order."""

    name: str
    columns: Columns


class LabelEntry(_Part):
    """One label that the model predicts."""

    name: Name
    kind: Literal["binary", "real"]


class ModelEntry(_Part):
    """What must be the same in a checkpoint and in a job that resumes from it."""

    name: str
    settings: dict[str, JsonValue] = {}  # settings of the dense model
    num_dense: Columns | Literal[0]
    tables: tuple[TableEntry, ...] = Field(min_length=1)
    labels: tuple[LabelEntry, ...] = ()  # empty: one binary label of the name `label`
    features: tuple[FeatureEntry, ...] = ()  # empty: one row id in each table
    embedding_dim: Columns  # columns that hold embeddings
    first_order_columns: Literal[0, 1] = 0
    row_optimizer: str
    row_optimizer_settings: dict[str, JsonValue] = {}  # those on which the meaning of its state depends
    row_state: tuple[StateEntry, ...] = ()
    dense_optimizer: str
    dense_optimizer_settings: dict[str, JsonValue] = {}
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    vocabulary_sha256: Sha256 | None = None  # identifies which value has which row; None: not known

    @model_validator(mode="after")
    def _is_bounded(self) -> ModelEntry:
        if sum(table.num_embeddings for table in self.tables) >= 2**62:
            raise ValueError("tables have 2^62 rows or more in all")
        if self.row_width > 2**22:
            raise ValueError(f"rows have {self.row_width} columns")
        if any(dim > self.embedding_dim for dim in self.embedding_dims):
            raise ValueError("a table has more columns than embedding_dim")
        names = [table.name for table in self.tables]
        if len(set(names)) != len(names):
            raise ValueError("a table is listed twice")
        return self

    @property
    def row_width(self) -> int:
        """float32 columns of a row: embedding, first-order weight, optimizer state."""
        return self.embedding_dim + self.first_order_columns + sum(state.columns for state in self.row_state)

    @property
    def embedding_dims(self) -> tuple[int, ...]:
        """Columns of each table's embeddings."""
        return tuple(table.embedding_dim or self.embedding_dim for table in self.tables)

    @property
    def key_space(self) -> KeySpace:
        """The key space over all tables."""
        return KeySpace(tuple(table.num_embeddings for table in self.tables))


class TopologyEntry(_Part):
    """Numbers of the ranks that wrote the checkpoint."""

    servers: Annotated[int, Field(gt=0, le=10**6)]
    trainers: Annotated[int, Field(gt=0, le=10**6)]


class PositionEntry(_Part):
    """The first training sample that is not part of the state."""

    epoch: Count
    sample: Count


class ParentEntry(_Part):
    """The checkpoint that an increment builds on; the hash is that of its manifest.json."""

    name: str
    manifest_sha256: Sha256


class Manifest(_Part):
    """Content of manifest.json."""

    format: Literal["bagpipe_hpc.checkpoint"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    iteration: Annotated[int, Field(ge=0, le=MAX_ITERATIONS)]  # training iterations that are part of the state
    generation: Count
    parent: ParentEntry | None = None  # None: this is a full checkpoint
    depth: Count = 0  # increments from the full checkpoint to this one, including this one
    created: datetime
    topology: TopologyEntry
    window: Count
    prefetch_depth: Count
    cache_rows: Annotated[int, Field(gt=0, lt=2**31)]
    model: ModelEntry
    position: PositionEntry
    config: dict[str, JsonValue] = {}  # all settings of the job; for readers, not for programs
    versions: dict[str, str] = {}  # versions of bagpipe_hpc, torch, MPI
    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        names = [entry.name for entry in self.files]
        if len(set(names)) != len(names):
            raise ValueError("a file is listed twice")
        if self.topology.servers + self.topology.trainers > len(names):
            raise ValueError("files lacks those of some servers or trainers")
        missing = sorted(set(files_of(self.topology.servers, self.topology.trainers)) - set(names))
        if missing:
            raise ValueError(f"files lacks {', '.join(missing)}")
        if (self.parent is None) != (self.depth == 0):
            raise ValueError("depth must be 0 if there is no parent, and above 0 if there is one")
        if self.parent is not None:
            parent_iteration = iteration_of(self.parent.name)
            if parent_iteration is None or parent_iteration >= self.iteration:
                raise ValueError(f"parent {self.parent.name!r} must name a checkpoint of an earlier iteration")
        return self

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.num_bytes for entry in self.files)

    def entry(self, name: str) -> FileEntry:
        """Return the file with this name. Raises KeyError if there is none."""
        return {entry.name: entry for entry in self.files}[name]

    def to_json(self) -> bytes:
        """Return the content of manifest.json."""
        return dump_json(with_checksum(self.model_dump(mode="json")), indent=2)


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """Return the manifest of a committed checkpoint, and the SHA-256 of its file.

    Raises:
        CheckpointError: The manifest is missing, or not one of this format version.
    """
    path = directory / MANIFEST
    if not path.exists():
        why = "is missing: this is no checkpoint, or it lost its manifest" if directory.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {why}; name a directory `iteration-...`, or one with such directories")
    content = read_bounded(path, max_bytes=MAX_BYTES, error=CheckpointError, mend=MEND)
    tree = parse_json(content, path, error=CheckpointError, mend=MEND)
    fields = require_checksum(tree, path, error=CheckpointError, mend=MEND)
    try:
        # Validated as JSON, which has no tuples and no dates, and strictly: true is not 1.
        manifest = Manifest.model_validate_json(dump_json(fields), strict=True)
        return manifest, hashlib.sha256(content).hexdigest()
    except ValidationError as error:
        raise CheckpointError(
            f"{path} is damaged, or has another version of the format ({first_fault(error)}); use another checkpoint"
        ) from None


def require_same_model(saved: ModelEntry, wanted: ModelEntry) -> None:
    """Refuse to continue with other tables, dimensions or optimizers.

    Raises:
        CheckpointError: Names every field that differs, with both values.
    """
    entries = [entry.model_dump(mode="json", exclude={"vocabulary_sha256"}) for entry in (saved, wanted)]
    _leave_out_what_may_differ(*entries)
    differences = list(_differences("model", *entries))
    if differences:
        raise CheckpointError(
            f"the job contradicts the checkpoint: {'; '.join(differences)}; give the settings and data set of the "
            "checkpoint, choose another checkpoint, or train from the beginning"
        )


def _leave_out_what_may_differ(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Leave out lengths of sequences, rules of dynamic tables, and what checkpoints of earlier versions do not say.

    A setting of the model that a version did not have yet counts as its default.
    """
    defaults = ModelConfig().model_dump(mode="json")
    for name in wanted["settings"].keys() - saved["settings"].keys() if saved["settings"] else ():
        if name in defaults and wanted["settings"][name] == defaults[name]:
            del wanted["settings"][name]
    for mine, others in zip(saved["tables"], wanted["tables"], strict=False):
        del mine["id_type"], others["id_type"]  # see `require_same_values`
        if mine["dynamic"] is not None and others["dynamic"] is not None:
            for table in (mine, others):
                table["dynamic"] = {"default_rows": table["dynamic"]["default_rows"]}
                del table["num_embeddings"]
    for mine, others in zip(saved["features"], wanted["features"], strict=False):
        if mine["sequence"] is None:
            others["sequence"] = None
        for feature in (mine, others):
            if feature["sequence"] is not None:
                del feature["sequence"]["max_length"]


def moved_keys(saved: ModelEntry, wanted: KeySpace) -> Callable[[Int64Array], Int64Array] | None:
    """Return what maps the keys of a checkpoint to those of a job whose dynamic tables have other capacities.

    The result is None if all keys are the same. Rows keep their numbers within their tables.
    """
    before = saved.key_space
    if before.num_embeddings == wanted.num_embeddings:
        return None
    shifts = wanted.table_offsets[:-1] - before.table_offsets[:-1]
    return lambda keys: keys + shifts[np.searchsorted(before.table_offsets, keys, side="right") - 1]


def require_same_values(saved: ModelEntry, wanted: ModelEntry, dataset: Path) -> None:
    """Refuse a data set whose rows or ids stand for other values than in the data set of the training.

    Raises:
        CheckpointError: The vocabularies, or the types of the ids of a dynamic table, are known and differ.
    """
    ours, theirs = saved.vocabulary_sha256, wanted.vocabulary_sha256
    if ours is not None and theirs is not None and ours != theirs:
        raise CheckpointError(
            f"{dataset}: has another vocabulary than the data set that the checkpoint was trained on, so the same row "
            "stands for another value; import the files again with `bagpipe import --vocabulary DIR`, where DIR is the "
            "data set that the checkpoint was trained on"
        )
    for mine, others in zip(saved.tables, wanted.tables, strict=True):
        if None not in (mine.id_type, others.id_type) and mine.id_type != others.id_type:
            raise CheckpointError(
                f"{dataset}: ids of table {mine.name} are of type {others.id_type}, but of type {mine.id_type} in the "
                "data set that the checkpoint was trained on, so the same id stands for another value; import the "
                f"files again with a schema file in which {mine.name}, and what shares it, has `type: {mine.id_type}`"
            )


def _differences(name: str, saved: Any, wanted: Any) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in saved | wanted:
            yield from _differences(f"{name}.{key}", saved.get(key), wanted.get(key))
    elif isinstance(saved, list) and isinstance(wanted, list):
        if len(saved) != len(wanted):
            yield f"{name} has {len(saved)} entries in the checkpoint, {len(wanted)} in the job"
        for index, (mine, others) in enumerate(zip(saved, wanted, strict=False)):
            yield from _differences(f"{name}[{index}]", mine, others)
    elif saved != wanted:
        yield f"{name} is {saved!r} in the checkpoint, {wanted!r} in the job"
