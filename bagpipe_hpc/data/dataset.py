"""A data set: a directory of shards for training and validation, in time order, named by dataset.json."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.bounded_json import dump_json, read_json, require_checksum, with_checksum
from bagpipe_hpc.data.hdf5 import cannot_write
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.shard import Compression, ShardReader, ShardWriter, first_fault
from bagpipe_hpc.errors import ConfigError, DatasetError

FORMAT: Final = "bagpipe_hpc.dataset"
FORMAT_VERSION: Final = 2
MANIFEST = "dataset.json"
SAMPLES_PER_SHARD = 1 << 20

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SplitName = Literal["train", "validation"]

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the samples done and the samples in all (0: not yet known)."""

_MAX_MANIFEST_BYTES = 32 << 20  # of some 400,000 shards
_MEND = "copy the data set again, or make it again with `bagpipe import` or `bagpipe synth`"


class ShardEntry(BaseModel):
    """One shard as dataset.json names it; the path stays within the data set's directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^(train|validation)/\w[\w.-]*\.h5$")]
    num_samples: PositiveInt

    @property
    def split(self) -> SplitName:
        """The split it belongs to."""
        return "train" if self.file.startswith("train/") else "validation"


class Splits(BaseModel):
    """Shards of both splits, in time order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: tuple[ShardEntry, ...] = ()
    validation: tuple[ShardEntry, ...] = ()

    @model_validator(mode="after")
    def _distinct_shards(self) -> Splits:
        files = Counter(shard.file for shard in (*self.train, *self.validation))
        for file, times in files.most_common(1):
            if times > 1:
                raise ValueError(f"{file} is listed {times} times, so its samples would count more than once")
        return self


class Manifest(BaseModel):
    """Content of dataset.json, its checksum apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["bagpipe_hpc.dataset"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION
    sample_schema: Schema = Field(alias="schema")
    splits: Splits
    vocabulary_sha256: Sha256 | None = None  # of what rows stand for (`vocabulary_digest`); None: not known
    origin: dict[str, JsonValue] = {}  # how the data set was made; for readers, not for programs

    @model_validator(mode="after")
    def _has_samples(self) -> Manifest:
        train, validation = self.splits.train, self.splits.validation
        if self.sample_schema.labelled and not train:
            raise ValueError("splits.train has no shard, but a data set with labels has at least one")
        if not self.sample_schema.labelled and (train or not validation):
            raise ValueError("samples without labels all belong to splits.validation, which has at least one shard")
        return self


@dataclass(frozen=True)
class Split:
    """Consecutive samples over shards, in time order."""

    name: SplitName
    path: Path  # of the data set
    schema: Schema
    shards: tuple[ShardEntry, ...]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    def num_batches(self, batch_size: int) -> int:
        """Batches of one pass; the last may be short."""
        return -(-self.num_samples // batch_size)

    def batches(self, batch_size: int, *, start_sample: int = 0) -> Iterator[Batch]:
        """Batches in time order across shard borders, each batch_size samples except perhaps the last.

        Args:
            batch_size: Samples per batch, at least 1.
            start_sample: First sample of the first batch, in [0, num_samples].
        Raises:
            ConfigError: batch_size below 1.
            DatasetError: start_sample out of range; while iterating, a shard or a sample that is not sound.
        """
        if batch_size < 1:
            raise ConfigError(f"the batch size is {batch_size}, but must be at least 1")
        if not 0 <= start_sample <= self.num_samples:
            raise DatasetError(
                f"{self.path}: the {self.name} split has {self.num_samples} samples, so reading cannot start at sample "
                f"{start_sample}; continue with the data set the run was started with"
            )
        return self._batches(batch_size, start_sample)

    def _batches(self, batch_size: int, start_sample: int) -> Iterator[Batch]:
        pieces: list[Batch] = []
        missing = batch_size
        first_samples = accumulate((shard.num_samples for shard in self.shards), initial=0)
        for shard, first_sample in zip(self.shards, first_samples, strict=False):
            position = max(0, start_sample - first_sample)
            if position >= shard.num_samples:
                continue
            with self.open_shard(shard) as reader:
                while position < shard.num_samples:
                    stop = min(position + missing, shard.num_samples)
                    pieces.append(reader.read(position, stop))
                    missing -= stop - position
                    position = stop
                    if not missing:
                        yield Batch.concatenate(pieces)
                        pieces, missing = [], batch_size
        if pieces:
            yield Batch.concatenate(pieces)

    def read(self, start: int, stop: int) -> Batch:
        """Samples [start, stop), at least one.

        Raises:
            DatasetError: a shard or a sample is not sound.
        """
        pieces = []
        first_samples = accumulate((shard.num_samples for shard in self.shards), initial=0)
        for shard, first_sample in zip(self.shards, first_samples, strict=False):
            begin, end = max(0, start - first_sample), min(shard.num_samples, stop - first_sample)
            if begin < end:
                with self.open_shard(shard) as reader:
                    pieces.append(reader.read(begin, end))
        return Batch.concatenate(pieces)

    def open_shard(self, shard: ShardEntry) -> ShardReader:
        """Open one shard and hold it against dataset.json."""
        reader = ShardReader(self.path / shard.file, self.schema)
        if reader.num_samples != shard.num_samples:
            reader.close()
            raise DatasetError(
                f"{self.path / shard.file}: holds {reader.num_samples} samples, but {MANIFEST} says "
                f"{shard.num_samples}; {_MEND}"
            )
        return reader


@dataclass(frozen=True)
class Dataset:
    """What `open_dataset` found."""

    path: Path
    schema: Schema
    train: Split
    validation: Split
    origin: Mapping[str, JsonValue]
    vocabulary_sha256: str | None = None  # None: the data set has no vocabulary, or its digest is not known

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        return self.train if name == "train" else self.validation


def open_dataset(path: Path) -> Dataset:
    """Open a data set; every shard is opened once to see that it is there, whole, and of this schema.

    Raises:
        DatasetError: dataset.json or a shard is missing, damaged, foreign, or of another version or schema.
    """
    manifest = read_manifest(path)
    schema = manifest.sample_schema
    train = Split("train", path, schema, manifest.splits.train)
    validation = Split("validation", path, schema, manifest.splits.validation)
    for split in (train, validation):
        for shard in split.shards:
            split.open_shard(shard).close()
    return Dataset(path, schema, train, validation, manifest.origin, manifest.vocabulary_sha256)


def require_labels(dataset: Dataset, use: str) -> None:
    """Raise DatasetError where samples have no labels, but `use` needs them."""
    if not dataset.schema.labelled:
        raise DatasetError(
            f"{dataset.path}: its samples have no labels, which {use} needs; it serves `bagpipe predict` only. To have "
            "labels, import with a schema file that names the label, and without --no-label"
        )


def num_training_samples(num_samples: int, validation_fraction: float) -> int:
    """Where the validation split starts: its fraction, rounded down, is taken from the tail.

    Raises:
        ConfigError: a fraction outside [0, 1).
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"the validation fraction is {validation_fraction}, but must be at least 0 and below 1")
    return num_samples - int(num_samples * validation_fraction)


def no_progress(phase: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class PartialDataset:
    """A data set beside its final place: shards are written into it by anyone, `commit` gives it its name, at once.

    A data set that was not finished therefore never has its final name. Killed writers may leave a directory
    `.<name>.partial-<suffix>` behind, which may be deleted.

    Args:
        path: The data set's directory; must not exist, or be empty.
        suffix: Tells it from others for the same place; all who write into it give the same.
    Raises:
        DatasetError: the output exists or cannot be written.
    """

    def __init__(self, path: Path, suffix: str) -> None:
        refuse_occupied(path)
        self._path = path
        self._target = path.resolve()
        self.directory = self._target.with_name(f".{self._target.name}.partial-{suffix}")

    def make(self) -> None:
        """Make the directory."""
        try:
            for split in get_args(SplitName):
                (self.directory / split).mkdir(parents=True)
        except OSError as error:
            self.discard()
            raise DatasetError(
                f"{self._path}: cannot be made ({error.strerror}); choose another output directory"
            ) from error

    def sync(self, file: str) -> None:
        """Bring a file of the data set to disk. Raises DatasetError."""
        try:
            _sync(self.directory / file)
        except OSError as error:
            raise cannot_write(self._path / file, error) from error

    def finished(self, split: SplitName, number: int, writer: ShardWriter) -> ShardEntry:
        """Bring a shard, whose writer is closed, to disk."""
        file = shard_file(split, number)
        self.sync(file)
        return ShardEntry(file=file, num_samples=writer.num_samples)

    def commit(
        self,
        schema: Schema,
        shards: Sequence[ShardEntry],
        origin: Mapping[str, JsonValue],
        vocabulary_sha256: str | None = None,
    ) -> None:
        """Write dataset.json and rename; all shards are finished, and given in time order within their split."""
        train = tuple(shard for shard in shards if shard.split == "train")
        validation = tuple(shard for shard in shards if shard.split == "validation")
        if not train and schema.labelled:
            raise DatasetError(f"{self._path}: not one training sample came; give an input that has some")
        if not validation and not schema.labelled:
            raise DatasetError(f"{self._path}: not one sample came; give an input that has some")
        manifest = Manifest(
            schema=schema,
            splits=Splits(train=train, validation=validation),
            vocabulary_sha256=vocabulary_sha256,
            origin=dict(origin),
        )
        try:
            (self.directory / MANIFEST).write_bytes(_content_of(manifest))
            _sync(self.directory / MANIFEST)
            _sync(self.directory)
            self.directory.rename(self._target)
            _sync(self._target.parent)
        except OSError as error:
            raise DatasetError(
                f"{self._path}: cannot be finished ({error.strerror}); free space, or choose another output directory"
            ) from error

    def discard(self) -> bool:
        """Delete what was not committed.

        It gets another name first, so that nobody who still writes here makes one more file meanwhile.

        Returns:
            Whether it was there; of all who discard the same, one gets True.
        """
        doomed = self.directory.with_name(f"{self.directory.name}-failed")
        try:
            self.directory.rename(doomed)
        except OSError:
            return False
        shutil.rmtree(doomed, ignore_errors=True)
        return True


class DatasetWriter:
    """Writes a data set of one stream; leaving the `with` block without an error commits it, see PartialDataset.

    Args:
        path: The data set's directory; must not exist, or be empty.
        schema: What every sample must fit.
        samples_per_shard: Samples of every shard but a split's last.
        compression: None, "gzip" or "lzf".
        origin: How the data set is made, kept in dataset.json for readers.
    Raises:
        ConfigError: samples_per_shard below 1.
        DatasetError: the output exists, cannot be written, a sample does not fit, or no training sample came.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        compression: Compression | None = None,
        origin: Mapping[str, JsonValue] | None = None,
    ) -> None:
        require_samples_per_shard(samples_per_shard)
        self._partial = PartialDataset(path, secrets.token_hex(4))
        self._schema = schema
        self._samples_per_shard = samples_per_shard
        self._compression = compression
        self._origin = dict(origin or {})
        self._shards: dict[SplitName, list[ShardEntry]] = {name: [] for name in get_args(SplitName)}
        self._open: dict[SplitName, ShardWriter] = {}

    def __enter__(self) -> Self:
        self._partial.make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for split in list(self._open):
                    self._finish_shard(split)
                shards = [shard for split in self._shards.values() for shard in split]
                self._partial.commit(self._schema, shards, self._origin)
        finally:
            for writer in self._open.values():
                writer.__exit__(kind, error, trace)
            self._partial.discard()

    def append(self, split: SplitName, batch: Batch) -> None:
        """Add samples at the end of a split."""
        start = 0
        while start < batch.num_samples:
            writer = self._open.get(split) or self._next_shard(split)
            stop = min(batch.num_samples, start + self._samples_per_shard - writer.num_samples)
            writer.append(batch.slice(start, stop))
            start = stop
            if writer.num_samples == self._samples_per_shard:
                self._finish_shard(split)

    def write(self, batches: Iterable[Batch], num_training_samples: int) -> None:
        """Add a stream in time order: the first samples train, the rest validates."""
        remaining = num_training_samples
        for batch in batches:
            border = min(remaining, batch.num_samples)
            self.append("train", batch.slice(0, border))
            self.append("validation", batch.slice(border, batch.num_samples))
            remaining -= border

    def _next_shard(self, split: SplitName) -> ShardWriter:
        path = self._partial.directory / shard_file(split, len(self._shards[split]))
        self._open[split] = ShardWriter(path, self._schema, self._compression)
        return self._open[split]

    def _finish_shard(self, split: SplitName) -> None:
        writer = self._open.pop(split)
        writer.close()
        self._shards[split].append(self._partial.finished(split, len(self._shards[split]), writer))


def shard_file(split: SplitName, number: int) -> str:
    """Path of a shard within its data set."""
    return f"{split}/shard-{number:05d}.h5"


def require_samples_per_shard(samples_per_shard: int) -> None:
    """Raise ConfigError below 1."""
    if samples_per_shard < 1:
        raise ConfigError(f"samples per shard is {samples_per_shard}, but must be at least 1")


def refuse_occupied(path: Path) -> None:
    """Raise DatasetError unless a data set can be made at this path."""
    try:
        if path.is_dir() and not any(path.iterdir()):
            return
        is_there = path.exists()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be made ({error.strerror}); choose another output directory") from error
    if is_there:
        raise DatasetError(
            f"{path}: already exists and is not empty; choose another output directory, or delete it first"
        )


def read_manifest(path: Path) -> Manifest:
    """dataset.json; no shard is opened. Raises DatasetError."""
    file = path / MANIFEST
    if not os.path.isdir(path):
        raise DatasetError(
            f"{path}: is not a directory; give the output directory of `bagpipe import` or `bagpipe synth`"
        )
    if not os.path.lexists(file):
        raise DatasetError(f"{path}: has no {MANIFEST}, so it is not a data set, or not a whole one; {_MEND}")
    content = read_json(file, max_bytes=_MAX_MANIFEST_BYTES, error=DatasetError, mend=_MEND)
    _check_version(file, content)
    rest = require_checksum(content, file, error=DatasetError, mend=_MEND)
    try:
        return Manifest.model_validate_json(json.dumps(rest), strict=True)
    except ValidationError as error:
        raise DatasetError(f"{file}: is not valid ({first_fault(error)}); {_MEND}") from error


def _content_of(manifest: Manifest) -> bytes:
    """Content of dataset.json. Raises DatasetError where that would be no JSON."""
    try:
        return dump_json(with_checksum(manifest.model_dump(mode="json", by_alias=True)))
    except ValueError as error:
        raise DatasetError(f"the origin of a data set holds what JSON cannot ({error}); give other values") from error


def _check_version(file: Path, content: object) -> None:
    fields = content if isinstance(content, dict) else {}
    if fields.get("format") != FORMAT:
        raise DatasetError(f"{file}: its format is {fields.get('format')!r}, not {FORMAT!r}; {_MEND}")
    version = fields.get("format_version")
    if version == 1 and version is not True:
        raise DatasetError(
            f"{file}: has format version 1, from before {MANIFEST} had a checksum, but this release reads version "
            f"{FORMAT_VERSION}; make the data set again with `bagpipe import` or `bagpipe synth`"
        )
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{file}: has format version {version!r}, but this release reads version {FORMAT_VERSION}; {_MEND}"
        )


def _sync(path: Path) -> None:
    """Bring a file or directory to disk, so that the final rename never names what a power failure can still lose."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
