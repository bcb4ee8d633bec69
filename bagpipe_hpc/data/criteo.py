"""Import of Criteo click logs: tab-separated label, 13 integers, 26 categories in hexadecimal; empty = missing.

Files are streamed, never held: once to count lines, once to count values (not when hashing), once to write. Lines are
taken to be in time order, files in the order given.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pydantic import JsonValue

from bagpipe_hpc.data.batch import Batch, Float32Array
from bagpipe_hpc.data.dataset import (
    SAMPLES_PER_SHARD,
    Dataset,
    DatasetWriter,
    Progress,
    no_progress,
    num_training_samples,
    open_dataset,
    refuse_occupied,
)
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.data.shard import Compression
from bagpipe_hpc.data.vocabulary import Encoder, HashedVocabulary, ValueCounter, Vocabulary
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.sharding import Int64Array

NUM_INTEGERS = 13
NUM_CATEGORIES = 26
COLUMNS = ("label", *(f"I{i + 1}" for i in range(NUM_INTEGERS)), *(f"C{i + 1}" for i in range(NUM_CATEGORIES)))
BLOCK_BYTES = 4 << 20

_GZIP_MAGIC = b"\x1f\x8b"

# of every column: what it must match, and that in words; the numbers fit int64
_GRAMMAR = (
    (rb"[01]", "0 or 1"),
    *[(rb"(?:-?+[0-9]{1,18}+)?+", "empty or an integer of at most 18 digits")] * NUM_INTEGERS,
    *[(rb"[0-9a-fA-F]{0,8}+", "empty or at most 8 hexadecimal digits")] * NUM_CATEGORIES,
)
# possessive, so that matching a whole block keeps no memory of where it could backtrack to
_LINES = re.compile(rb"(?:" + rb"\t".join(pattern for pattern, _ in _GRAMMAR) + rb"\n)*+")

_CONVERSIONS = csv.ConvertOptions(
    column_types=dict(
        zip(COLUMNS, [pa.float32()] + [pa.int64()] * NUM_INTEGERS + [pa.string()] * NUM_CATEGORIES, strict=True)
    ),
    null_values=[""],
    strings_can_be_null=True,
)


@dataclass(frozen=True)
class Block:
    """Parsed consecutive lines."""

    labels: Float32Array  # (num_samples,)
    dense: Float32Array  # (num_samples, 13), log(1 + max(x, 0)), missing = 0
    categories: Int64Array  # (26, num_samples), -1 = missing


def import_criteo(
    files: Sequence[Path],
    output: Path,
    *,
    min_count: int = 4,
    hash_rows: int | None = None,
    validation_fraction: float = 0.1,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    compression: Compression | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Make a data set of Criteo's text files, plain or gzip.

    Args:
        files: In time order.
        output: Directory of the data set; must not exist, or be empty.
        min_count: Values seen less often in the training part share row 0.
        hash_rows: Rows of every table; values are then hashed instead of counted, and min_count has no meaning.
        validation_fraction: Share of samples, from the tail, that validates.
    Raises:
        ConfigError: an argument is out of range.
        DatasetError: a file is missing, damaged or malformed: names file, line, column and reason.
    """
    refuse_occupied(output)
    num_samples = _count_lines(files, progress)
    num_train = num_training_samples(num_samples, validation_fraction)
    if hash_rows is None:
        encoders = _vocabularies(files, num_train, min_count, progress)
    else:
        encoders = [HashedVocabulary(hash_rows)] * NUM_CATEGORIES
    schema = Schema(
        dense=COLUMNS[1 : 1 + NUM_INTEGERS],
        tables=tuple(
            TableSchema(name=name, num_embeddings=encoder.num_embeddings)
            for name, encoder in zip(COLUMNS[1 + NUM_INTEGERS :], encoders, strict=True)
        ),
    )
    origin: dict[str, JsonValue] = {
        "command": "import criteo",
        "files": [file.name for file in files],
        **({"min_count": min_count} if hash_rows is None else {"hash_rows": hash_rows}),
        "validation_fraction": validation_fraction,
    }
    with DatasetWriter(
        output, schema, samples_per_shard=samples_per_shard, compression=compression, origin=origin
    ) as writer:
        writer.write(_encoded(files, encoders, num_samples, progress), num_train)
    return open_dataset(output)


def parse_blocks(files: Sequence[Path]) -> Iterator[Block]:
    """Parse files block by block, each about BLOCK_BYTES of text.

    Raises:
        DatasetError: a file is missing, damaged or malformed: names file, line, column and reason.
    """
    for file in files:
        line_number = 1
        for text in _text_blocks(file):
            matching = _LINES.match(text)
            good = matching.end() if matching else 0
            if good < len(text):
                line_number += text.count(b"\n", 0, good)
                fault = _fault(text[good : text.index(b"\n", good)])
                raise DatasetError(f"{file}: line {line_number}: {fault}; mend the line, or take it out")
            block = _parse(text)
            yield block
            line_number += len(block.labels)


def _count_lines(files: Sequence[Path], progress: Progress) -> int:
    num_lines = 0
    for file in files:
        for text in _text_blocks(file):
            num_lines += text.count(b"\n")
            progress("counting lines", num_lines, 0)
    if not num_lines:
        raise DatasetError(f"{', '.join(map(str, files))}: no line in it; give at least one file with samples")
    return num_lines


def _vocabularies(files: Sequence[Path], num_train: int, min_count: int, progress: Progress) -> list[Encoder]:
    """Vocabularies of all categories from the training part only: validation must not leak into the tables."""
    counters = [ValueCounter(np.uint32) for _ in range(NUM_CATEGORIES)]
    done = 0
    for block in parse_blocks(files):
        counted = min(len(block.labels), num_train - done)
        for counter, values in zip(counters, block.categories, strict=True):
            counter.add(values[:counted])
        done += counted
        progress("counting values", done, num_train)
        if done == num_train:
            break
    return [Vocabulary(counter, min_count) for counter in counters]


def _encoded(
    files: Sequence[Path], encoders: Sequence[Encoder], num_samples: int, progress: Progress
) -> Iterator[Batch]:
    done = 0
    for block in parse_blocks(files):
        columns = [encoder.encode(values) for encoder, values in zip(encoders, block.categories, strict=True)]
        yield Batch(block.labels, block.dense, np.stack(columns, axis=1))
        done += len(block.labels)
        progress("writing shards", done, num_samples)


def _text_blocks(file: Path) -> Iterator[bytes]:
    """Text of whole lines, about BLOCK_BYTES at a time; the last line gets a newline if it has none."""
    with _open_text(file) as stream:
        rest = b""
        while chunk := stream.read(BLOCK_BYTES):
            end = chunk.rfind(b"\n") + 1
            if not end and len(rest) + len(chunk) > BLOCK_BYTES:
                raise DatasetError(f"{file}: has a line of more than {BLOCK_BYTES} bytes; give a Criteo text file")
            if end:
                yield rest + chunk[:end]
                rest = b""
            rest += chunk[end:]
        if rest:
            yield rest + b"\n"


@contextmanager
def _open_text(file: Path) -> Iterator[IO[bytes]]:
    try:
        with open(file, "rb") as raw:
            compressed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            raw.seek(0)
            yield gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[misc]
    except FileNotFoundError as error:
        raise DatasetError(f"{file}: is missing; check the path of the input") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{file}: is a damaged or truncated gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error}); check path and permissions") from error


def _parse(text: bytes) -> Block:
    """Parse lines that match the grammar."""
    table = csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(column_names=COLUMNS),
        parse_options=csv.ParseOptions(delimiter="\t"),
        convert_options=_CONVERSIONS,
    )
    label, *features = table.columns
    integers = np.stack([column.fill_null(0).to_numpy() for column in features[:NUM_INTEGERS]], axis=1)
    return Block(
        labels=label.to_numpy(),
        dense=np.log1p(integers.clip(min=0)).astype(np.float32),
        categories=np.stack([_from_hexadecimal(column).to_numpy() for column in features[NUM_INTEGERS:]]),
    )


def _from_hexadecimal(digits: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers, int64, of strings of hexadecimal digits; -1 for null."""
    return pc.binary_replace_slice(digits, 0, 0, "0x").cast(pa.int64()).fill_null(-1)


def _fault(line: bytes) -> str:
    """Why a line does not match the grammar."""
    fields = line.split(b"\t")
    if len(fields) != len(COLUMNS):
        hint = " (a file without labels, such as Kaggle's test.txt?)" if len(fields) == len(COLUMNS) - 1 else ""
        return f"has {len(fields)} tab-separated columns, but {len(COLUMNS)} are needed{hint}"
    column = next(i for i, (pattern, _) in enumerate(_GRAMMAR) if not re.fullmatch(pattern, fields[i]))
    value = fields[column][:40].decode("utf-8", "replace")
    return f"column {column + 1} ({COLUMNS[column]}) is {value!r}, but must be {_GRAMMAR[column][1]}"
