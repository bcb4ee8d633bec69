"""A data set: a directory of shards for training and validation, in time order, which dataset.json lists."""

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
"""Called with a phase's name, the number of samples done and the number of all samples (0: not yet known)."""

_MAX_MANIFEST_BYTES = 32 << 20  # enough for some 400,000 shards
_MEND = "copy the data set again, or make it again with `bagpipe import` or `bagpipe synth`"


class ShardEntry(BaseModel):
    """One shard as dataset.json lists it. The path stays within the data set's directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^(train|validation)/\w[\w.-]*\.h5$")]
    num_samples: PositiveInt

    @property
    def split(self) -> SplitName:
        """The split that the shard belongs to."""
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
    """Content of dataset.json without its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["bagpipe_hpc.dataset"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION
    sample_schema: Schema = Field(alias="schema")
    splits: Splits
    vocabulary_sha256: Sha256 | None = None  # which value has which row (`vocabulary_digest`); None: not known
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
    """Consecutive samples in several shards, in time order."""

    name: SplitName
    path: Path  # directory of the data set
    schema: Schema
    shards: tuple[ShardEntry, ...]
    with_times: bool = False  # whether batches have the times of samples

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches in one pass; the last batch may be short."""
        return -(-self.num_samples // batch_size)

    def batches(self, batch_size: int, *, start_sample: int = 0, stop_sample: int | None = None) -> Iterator[Batch]:
        """Yield batches in time order across shards. Each has batch_size samples, except perhaps the last.

        Args:
            batch_size: Samples per batch, at least 1.
            start_sample: First sample of the first batch, in [0, num_samples].
            stop_sample: The sample after the last one of the last batch; None: num_samples.
        Raises:
            ConfigError: batch_size is below 1.
            DatasetError: start_sample is out of range or, while iterating, a shard or a sample is invalid.
        """
        if batch_size < 1:
            raise ConfigError(f"the batch size is {batch_size}, but must be at least 1")
        if not 0 <= start_sample <= self.num_samples:
            raise DatasetError(
                f"{self.path}: the {self.name} split has {self.num_samples} samples, so reading cannot start at sample "
                f"{start_sample}; continue with the data set with which the run started"
            )
        return self._batches(batch_size, start_sample, self.num_samples if stop_sample is None else stop_sample)

    def _batches(self, batch_size: int, start_sample: int, stop_sample: int) -> Iterator[Batch]:
        pieces: list[Batch] = []
        missing = batch_size
        first_samples = accumulate((shard.num_samples for shard in self.shards), initial=0)
        for shard, first_sample in zip(self.shards, first_samples, strict=False):
            position = max(0, start_sample - first_sample)
            end = min(shard.num_samples, stop_sample - first_sample)
            if position >= end:
                continue
            with self.open_shard(shard) as reader:
                while position < end:
                    stop = min(position + missing, end)
                    pieces.append(reader.read(position, stop))
                    missing -= stop - position
                    position = stop
                    if not missing:
                        yield Batch.concatenate(pieces)
                        pieces, missing = [], batch_size
        if pieces:
            yield Batch.concatenate(pieces)

    def read(self, start: int, stop: int) -> Batch:
        """Return samples [start, stop), at least one.

        Raises:
            DatasetError: A shard or a sample is invalid.
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
        """Open one shard and compare it with dataset.json."""
        reader = ShardReader(self.path / shard.file, self.schema, with_times=self.with_times)
        if reader.num_samples != shard.num_samples:
            reader.close()
            raise DatasetError(
                f"{self.path / shard.file}: holds {reader.num_samples} samples, but {MANIFEST} says "
                f"{shard.num_samples}; {_MEND}"
            )
        return reader


@dataclass(frozen=True)
class Dataset:
    """A data set that `open_dataset` has opened."""

    path: Path
    schema: Schema
    train: Split
    validation: Split
    origin: Mapping[str, JsonValue]
    vocabulary_sha256: str | None = None  # None: the data set has no vocabulary, or its digest is not known

    def split(self, name: SplitName) -> Split:
        """Return the split with this name."""
        return self.train if name == "train" else self.validation


def open_dataset(path: Path) -> Dataset:
    """Open a data set. Every shard is opened once, to check that it exists, is complete and has this schema.

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
    """Raise DatasetError if samples have no labels. Messages say that `use` needs them."""
    if not dataset.schema.labelled:
        raise DatasetError(
            f"{dataset.path}: its samples have no labels, which {use} needs; use it for `bagpipe predict` only. To get "
            "labels, import with a schema file that names the label, and without --no-label"
        )


def num_training_samples(num_samples: int, validation_fraction: float) -> int:
    """Return the number of training samples, which come first. The validation samples are a fraction, rounded down.

    Raises:
        ConfigError: The fraction is outside [0, 1).
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"the validation fraction is {validation_fraction}, but must be at least 0 and below 1")
    return num_samples - int(num_samples * validation_fraction)


def no_progress(phase: str, done: int, total: int) -> None:
    """Do nothing: the progress callback of callers that do not show progress."""


class PartialDataset:
    """A data set beside its final place. Anyone may write shards into it; `commit` gives it its name in one step.

    Therefore an unfinished data set never has its final name. If writers are killed, a directory
    `.<name>.partial-<suffix>` may remain, which the user may delete.

    Args:
        path: The data set's directory; must not exist, or must be empty.
        suffix: Distinguishes this data set from others for the same place. All its writers give the same suffix.
    Raises:
        DatasetError: The output exists or cannot be written.
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
        """Sync a file of the data set to disk. Raises DatasetError if that fails."""
        try:
            _sync(self.directory / file)
        except OSError as error:
            raise cannot_write(self._path / file, error) from error

    def finished(self, split: SplitName, number: int, writer: ShardWriter) -> ShardEntry:
        """Sync a shard whose writer is closed to disk; return its entry."""
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
        """Write dataset.json and rename. The shards are finished, and in time order within each split."""
        train = tuple(shard for shard in shards if shard.split == "train")
        validation = tuple(shard for shard in shards if shard.split == "validation")
        if not train and schema.labelled:
            raise DatasetError(f"{self._path}: the input has no training sample; give an input that has some")
        if not validation and not schema.labelled:
            raise DatasetError(f"{self._path}: the input has no sample; give an input that has some")
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
        """Delete the directory unless it is committed.

        First rename it, so that a rank that still writes here cannot create another file meanwhile.

        Returns:
            Whether the directory existed. If several ranks discard the same one, exactly one gets True.
        """
        doomed = self.directory.with_name(f"{self.directory.name}-failed")
        try:
            self.directory.rename(doomed)
        except OSError:
            return False
        shutil.rmtree(doomed, ignore_errors=True)
        return True


class DatasetWriter:
    """Writes a data set from one stream. Leaving the `with` block without an error commits it (see `PartialDataset`).

    Args:
        path: The data set's directory; must not exist, or must be empty.
        schema: The schema that every sample must fit.
        samples_per_shard: Samples of every shard, except the last one of a split.
        compression: None, "gzip" or "lzf".
        origin: How the data set is made; dataset.json stores it for readers.
    Raises:
        ConfigError: samples_per_shard is below 1.
        DatasetError: The output exists or cannot be written, a sample does not fit, or there is no training sample.
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
        """Append samples to a split."""
        start = 0
        while start < batch.num_samples:
            writer = self._open.get(split) or self._next_shard(split)
            stop = min(batch.num_samples, start + self._samples_per_shard - writer.num_samples)
            writer.append(batch.slice(start, stop))
            start = stop
            if writer.num_samples == self._samples_per_shard:
                self._finish_shard(split)

    def write(self, batches: Iterable[Batch], num_training_samples: int) -> None:
        """Append a stream in time order: the first samples to the training split, the rest to the validation split."""
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
    """Return the path of a shard within its data set."""
    return f"{split}/shard-{number:05d}.h5"


def require_samples_per_shard(samples_per_shard: int) -> None:
    """Raise ConfigError if samples_per_shard is below 1."""
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
    """Return the content of dataset.json, without opening a shard. Raises DatasetError if it is invalid."""
    file = path / MANIFEST
    if not os.path.isdir(path):
        raise DatasetError(
            f"{path}: is not a directory; give the output directory of `bagpipe import` or `bagpipe synth`"
        )
    if not os.path.lexists(file):
        raise DatasetError(f"{path}: has no {MANIFEST}, so it is not a data set, or an incomplete one; {_MEND}")
    content = read_json(file, max_bytes=_MAX_MANIFEST_BYTES, error=DatasetError, mend=_MEND)
    _check_version(file, content)
    rest = require_checksum(content, file, error=DatasetError, mend=_MEND)
    try:
        return Manifest.model_validate_json(json.dumps(rest), strict=True)
    except ValidationError as error:
        raise DatasetError(f"{file}: is not valid ({first_fault(error)}); {_MEND}") from error


def _content_of(manifest: Manifest) -> bytes:
    """Return the content of dataset.json as bytes. Raises DatasetError if JSON cannot represent it."""
    try:
        return dump_json(with_checksum(manifest.model_dump(mode="json", by_alias=True)))
    except ValueError as error:
        raise DatasetError(
            f"the origin of a data set has values that JSON cannot hold ({error}); give others"
        ) from error


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
    """Sync a file or directory to disk, so that the final rename never names what a power failure can still lose."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
