"""Lines of text files, plain or gzip. Many ranks count them together, and any rank reads from any line on."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bagpipe_hpc.data.importing.formats import BEGINNING_BYTES, BOM, no_text
from bagpipe_hpc.data.importing.ranks import Ranks, share_of
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.sharding import Int64Array

BLOCK_BYTES = 4 << 20

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class LineIndex:
    """Approximate positions of the lines of a file."""

    offsets: Int64Array  # (num_marks,), rising from 0: marks, which are positions in the file; gzip: only its start
    lines_before: Int64Array  # (num_marks,), number of line ends before each mark
    num_lines: int

    def mark_before(self, line: int) -> tuple[int, int]:
        """Return the last mark from which skipping whole lines leads to a line's start: offset, line ends before it."""
        # A mark after exactly `line` line ends may be inside that line: choose one with fewer.
        mark = max(0, int(np.searchsorted(self.lines_before, line, side="left")) - 1)
        return int(self.offsets[mark]), int(self.lines_before[mark])


def index_lines(files: Sequence[Path], ranks: Ranks) -> Iterator[tuple[int, int, list[LineIndex] | None]]:
    """Count the lines of files. Ranks divide the bytes of plain files among them, and take turns with gzip files.

    Yields:
        The bytes that this rank has read so far, and all bytes it will read; the last time, also an index of each file.
    Raises:
        DatasetError: A file is missing or damaged.
    Communication: collective.
    """
    marks: list[tuple[int, int, int]] = []  # file, offset, line ends from there to the next mark
    shares = [_share_bytes(file, number, ranks) for number, file in enumerate(files)]
    total = sum(shares)
    for number, file in enumerate(files):
        before = sum(shares[:number])
        for offset, num_lines, read in _count_share(file, number, ranks):
            if num_lines is not None:
                marks.append((number, offset, num_lines))
            yield before + read, total, None
    everything = np.concatenate(ranks.allgather(np.array(marks, np.int64).reshape(-1))).reshape(-1, 3)
    yield total, total, [_index(everything[everything[:, 0] == number, 1:]) for number in range(len(files))]


def _index(marks: Int64Array) -> LineIndex:
    """Return the index for marks (num_marks, 2), each an offset and a number of line ends, in any order."""
    offsets, counts = marks[np.argsort(marks[:, 0])].T if len(marks) else np.zeros((2, 1), np.int64)
    return LineIndex(offsets, np.cumsum(counts) - counts, int(counts.sum()))


def _share_bytes(file: Path, number: int, ranks: Ranks) -> int:
    """Return the bytes on disk that this rank reads of a file to count its lines."""
    with open_text(file) as stream:
        if isinstance(stream, gzip.GzipFile):
            return file.stat().st_size if number % ranks.size == ranks.rank else 0
        start, stop = share_of(stream.seek(0, 2), ranks)
        return stop - start


def _count_share(file: Path, number: int, ranks: Ranks) -> Iterator[tuple[int, int | None, int]]:
    """Count line ends in this rank's part of a file. A last line without a line end counts as one.

    Yields:
        An offset, the line ends from there on (None: not known yet), and the bytes on disk that were read so far.
    """
    with open_text(file) as stream:
        if isinstance(stream, gzip.GzipFile):
            if number % ranks.size == ranks.rank:
                yield from _count_gzip(stream, stream.fileobj)
            return
        size = stream.seek(0, 2)
        start, stop = share_of(size, ranks)
        offset = stream.seek(start)
        while offset < stop and (chunk := stream.read(min(BLOCK_BYTES, stop - offset))):
            first, offset = offset, offset + len(chunk)
            yield first, chunk.count(b"\n"), offset - start
            if offset == size and not chunk.endswith(b"\n"):
                yield offset, 1, offset - start


def _count_gzip(stream: gzip.GzipFile, compressed: Any) -> Iterator[tuple[int, int | None, int]]:
    counted, last = 0, b"\n"
    while chunk := stream.read(BLOCK_BYTES):
        counted, last = counted + chunk.count(b"\n"), chunk[-1:]
        yield 0, None, compressed.tell()
    yield 0, counted + (last != b"\n"), compressed.tell()


def read_lines(file: Path, index: LineIndex, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield lines [start, stop) of a file, about BLOCK_BYTES at a time. The last line gets a newline if it has none.

    Yields:
        Number of the first line, from 0 on; text of whole lines.
    Raises:
        DatasetError: The file is missing, damaged, or has a line that is longer than a block.
    """
    offset, line = index.mark_before(start)
    with open_text(file) as stream:
        stream.seek(offset)
        for text in _whole_lines(stream, file, line):
            num_lines = text.count(b"\n")
            first, last = max(start - line, 0), min(stop - line, num_lines)
            if first < last:
                # At the start of a file, a byte order mark is not part of the text. Anywhere else it is.
                mark = len(BOM) if line + first == 0 and text.startswith(BOM) else 0
                begin, end = (_end_of_lines(text, number, num_lines) for number in (first, last))
                yield line + first, text[begin + mark : end]
            line += num_lines
            if line >= stop:
                return
    if start < stop:
        raise DatasetError(
            f"{file}: ended after {line} lines, but had {index.num_lines}; import a file that does not change"
        )


def first_line(file: Path) -> bytes:
    """Return the first line of a file, without its end and without a byte order mark; empty if there is none.

    Raises:
        DatasetError: The file is missing or damaged, or its first line shows that it is not text.
    """
    with open_text(file) as stream:
        line = stream.readline(BLOCK_BYTES + 1)
        if fault := no_text(line + stream.read(max(0, BEGINNING_BYTES - len(line)))):
            raise DatasetError(f"{file}: {fault}")
    if line.count(b"\r") > 1 and b"\n" not in line:
        raise DatasetError(f"{file}: has only carriage returns as line ends; convert them first: tr '\\r' '\\n'")
    if len(line) > BLOCK_BYTES and not line.endswith(b"\n"):
        raise _line_too_long(file, 0)
    return line.rstrip(b"\r\n").removeprefix(BOM)


def _whole_lines(stream: IO[bytes], file: Path, line: int) -> Iterator[bytes]:
    """Yield the file in blocks of whole lines. line: number of the first one, from 0 on."""
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        end = chunk.rfind(b"\n") + 1
        if len(rest) + (chunk.find(b"\n") if end else len(chunk)) > BLOCK_BYTES:
            raise _line_too_long(file, line)
        if end:
            line += chunk.count(b"\n")
            yield rest + chunk[:end]
            rest = b""
        rest += chunk[end:]
    if rest:
        yield rest + b"\n"


def _line_too_long(file: Path, line: int) -> DatasetError:
    return DatasetError(
        f"{file}: line {line + 1}: has more than {BLOCK_BYTES} bytes; shorten it, or give a file of text lines"
    )


def _end_of_lines(text: bytes, num_lines: int, num_all: int) -> int:
    """Return where the first num_lines lines of a text of num_all lines end."""
    if num_lines in (0, num_all):
        return len(text) if num_lines else 0
    return int(np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))[num_lines - 1]) + 1


def refuse_pipe(file: Path) -> None:
    """Raise DatasetError for a file that cannot be read twice, and OSError if it does not exist."""
    mode = os.stat(file).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DatasetError(f"{file}: is a pipe or device, but the import reads it more than once; give a regular file")


@contextmanager
def open_text(file: Path) -> Iterator[IO[bytes]]:
    """Open a plain or gzip file, which is recognised by its content.

    Raises:
        DatasetError: The file is missing or damaged, when it is opened or while it is read.
    """
    try:
        refuse_pipe(file)
        with open(file, "rb") as raw:
            compressed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            raw.seek(0)
            yield gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[misc]
    except FileNotFoundError as error:
        raise DatasetError(f"{file}: is missing; check the path of the input") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{file}: is a damaged or truncated gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror or error}); check path and permissions") from error
