"""Import of Criteo click logs: tab-separated label, 13 integers, 26 categories in hexadecimal; empty = missing.

Files are streamed, never held: once to count lines, once to count values (not when hashing), once to write. Lines are
taken to be in time order, files in the order given.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numba
import numpy as np
from numpy.typing import NDArray
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

_MAX_DIGITS = 18  # fits int64
_MAX_HEX_DIGITS = 8
_TAB, _NEWLINE, _MINUS, _ZERO = (ord(character) for character in "\t\n-0")
_GZIP_MAGIC = b"\x1f\x8b"

# value of each byte as a hexadecimal digit, -1 if it is none
_HEX_DIGITS = np.full(256, -1, np.int64)
_HEX_DIGITS[[ord(digit) for digit in "0123456789abcdef"]] = range(16)
_HEX_DIGITS[[ord(digit) for digit in "ABCDEF"]] = range(10, 16)


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
            num_lines = text.count(b"\n")
            block = Block(
                labels=np.empty(num_lines, np.float32),
                dense=np.empty((num_lines, NUM_INTEGERS), np.float32),
                categories=np.empty((NUM_CATEGORIES, num_lines), np.int64),
            )
            line, column = _parse(np.frombuffer(text, np.uint8), block.labels, block.dense, block.categories)
            if line >= 0:
                fault = _fault(text.split(b"\n", line + 1)[line], column)
                raise DatasetError(f"{file}: line {line_number + line}: {fault}; mend the line, or take it out")
            yield block
            line_number += num_lines


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


@numba.njit(nogil=True, cache=True)
def _parse(
    text: NDArray[np.uint8], labels: Float32Array, dense: Float32Array, categories: Int64Array
) -> tuple[int, int]:
    """Parse len(labels) lines, each with a newline; returns line and column of the first fault, (-1, -1) if none."""
    position = 0
    for line in range(len(labels)):
        for column in range(1 + NUM_INTEGERS + NUM_CATEGORIES):
            is_category = column > NUM_INTEGERS
            negative = 0 < column <= NUM_INTEGERS and text[position] == _MINUS
            position += negative
            start = position
            value = np.int64(0)
            if is_category:
                while _HEX_DIGITS[text[position]] >= 0:
                    value = value * 16 + _HEX_DIGITS[text[position]]
                    position += 1
            else:
                while 0 <= np.int64(text[position]) - _ZERO <= 9:
                    value = value * 10 + np.int64(text[position]) - _ZERO
                    position += 1
            width = position - start
            if text[position] != (_NEWLINE if column == NUM_INTEGERS + NUM_CATEGORIES else _TAB):
                return line, column
            position += 1
            if is_category:
                if width > _MAX_HEX_DIGITS:
                    return line, column
                categories[column - 1 - NUM_INTEGERS, line] = value if width else -1
            elif column == 0:
                if width != 1 or value > 1:
                    return line, column
                labels[line] = value
            else:
                if width > _MAX_DIGITS or (negative and not width):
                    return line, column
                dense[line, column - 1] = 0.0 if negative else math.log1p(np.float64(value))
    return -1, -1


def _fault(line: bytes, column: int) -> str:
    """Why `_parse` refused a line."""
    fields = line.split(b"\t")
    if len(fields) != len(COLUMNS):
        hint = " (a file without labels, such as Kaggle's test.txt?)" if len(fields) == len(COLUMNS) - 1 else ""
        return f"has {len(fields)} tab-separated columns, but {len(COLUMNS)} are needed{hint}"
    if column == 0:
        allowed = "0 or 1"
    elif column <= NUM_INTEGERS:
        allowed = f"empty or an integer of at most {_MAX_DIGITS} digits"
    else:
        allowed = f"empty or at most {_MAX_HEX_DIGITS} hexadecimal digits"
    value = fields[column][:40].decode("utf-8", "replace")
    return f"column {column + 1} ({COLUMNS[column]}) is {value!r}, but must be {allowed}"
