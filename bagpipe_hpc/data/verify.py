"""Reading every byte of a data set, file by file. HDF5 compares each chunk with its checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from bagpipe_hpc.data.dataset import MANIFEST, Progress, Split, SplitName, no_progress, read_manifest
from bagpipe_hpc.data.vocabulary_file import FILE as VOCABULARY
from bagpipe_hpc.data.vocabulary_file import read_vocabulary, vocabulary_digest
from bagpipe_hpc.errors import DatasetError

_SAMPLES_PER_READ = 32_768


def verify_files(path: Path, progress: Progress = no_progress) -> Iterator[tuple[str, DatasetError | None]]:
    """Check dataset.json, every shard and the vocabulary, if there is one. Continues after a damaged file.

    Yields:
        The file within the data set, and its fault; None: no fault.
    Raises:
        DatasetError: dataset.json is missing or damaged.
    """
    manifest = read_manifest(path)
    yield MANIFEST, None
    done, total = 0, sum(shard.num_samples for shard in (*manifest.splits.train, *manifest.splits.validation))
    for name in get_args(SplitName):
        split = Split(name, path, manifest.sample_schema, getattr(manifest.splits, name))
        for shard in split.shards:
            progress("verifying samples", done, total)
            try:
                with split.open_shard(shard) as reader:
                    for start in range(0, shard.num_samples, _SAMPLES_PER_READ):
                        reader.read(start, min(start + _SAMPLES_PER_READ, shard.num_samples))
                        progress("verifying samples", done + start, total)
                yield shard.file, None
            except DatasetError as error:
                yield shard.file, error
            done += shard.num_samples
    if (path / VOCABULARY).exists():
        progress("verifying the vocabulary", 0, 0)
        try:
            _verify_vocabulary(path, manifest.vocabulary_sha256)
            yield VOCABULARY, None
        except DatasetError as error:
            yield VOCABULARY, error


def _verify_vocabulary(path: Path, sha256: str | None) -> None:
    """Compare the vocabulary with its digest in dataset.json; None: there is no digest. Raises DatasetError."""
    digest = vocabulary_digest(read_vocabulary(path))
    if sha256 is not None and digest != sha256:
        raise DatasetError(
            f"{path / VOCABULARY}: belongs to another data set, because {MANIFEST} has another digest of it; copy the "
            "data set again, or make it again with `bagpipe import`"
        )
