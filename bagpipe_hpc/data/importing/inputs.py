"""The files of an import as one sequence of lines that can be read from any line on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from bagpipe_hpc.data.checks import WEIGHTS
from bagpipe_hpc.data.dataset import Progress
from bagpipe_hpc.data.importing import parquet, text
from bagpipe_hpc.data.importing.bad_lines import BadLines
from bagpipe_hpc.data.importing.click_logs import log_of
from bagpipe_hpc.data.importing.description import TableDescription, position_of
from bagpipe_hpc.data.importing.dynamic_ids import IntegerFaults
from bagpipe_hpc.data.importing.grammar import Grammar, delimiter_hint, describe_fault, header_hint, header_of
from bagpipe_hpc.data.importing.history_columns import HistoryColumns
from bagpipe_hpc.data.importing.ranks import Ranks, from_first
from bagpipe_hpc.data.importing.sequences import Sequences
from bagpipe_hpc.data.importing.times import Times
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.sharding import Int64Array


@dataclass(frozen=True)
class Rows:
    """Valid lines."""

    lines: Int64Array  # (num_rows,), rising; numbers from 0 over all files, counting bad lines, but not headers
    table: pa.Table  # columns named by their positions

    def slice(self, start: int, stop: int) -> Rows:
        """Return rows [start, stop)."""
        return Rows(self.lines[start:stop], self.table.slice(start, stop - start))

    @staticmethod
    def concatenate(pieces: Sequence[Rows]) -> Rows:
        """Return the rows of all pieces, one after the other."""
        tables = pa.concat_tables([piece.table for piece in pieces]).combine_chunks()
        return Rows(np.concatenate([piece.lines for piece in pieces]), tables)


class LineCheck(Protocol):
    """A check that depends on earlier lines."""

    def faults(self, rows: pa.Table) -> Iterable[tuple[int, str]]:
        """Check the next rows, in order. Return bad ones, from 0 on, and why; each row once, in order."""


class Inputs:
    """Text files (plain, gzip) and Parquet files in the given order, all with the same columns.

    Args:
        files: At least one file. Its format is recognised by content.
        description: What the columns hold.
    Raises:
        DatasetError: On rank 0: a file is missing or damaged, its columns differ or do not fit the description.
    Communication: collective.
    """

    def __init__(self, files: Sequence[Path], description: TableDescription, ranks: Ranks, progress: Progress) -> None:
        self._files = files
        found = from_first(ranks, lambda: _examine(files, description, progress))
        self.header: list[str] = found["header"]
        self._rows_of: list[int | None] = found["rows"]
        self._kinds = description.kinds(self.header)
        self._use = _use_of(description, self.header)
        self._grammar = Grammar(description, self.header, self._kinds)
        self._sequences = Sequences(description, self.header)
        self._integers = IntegerFaults(description, self.header)
        self._times = None if description.time is None else Times(description.time, self.header)
        self._history_columns = HistoryColumns(description, self.header)
        self._header_lines = 0 if description.columns else 1
        self._indices = self._index(ranks, progress)
        counts = (
            max(0, index.num_lines - self._header_lines) if rows is None else rows
            for rows, index in zip(self._rows_of, self._indices, strict=True)
        )
        self._first_lines = list(accumulate(counts, initial=0))

    @property
    def num_lines(self) -> int:
        """Number of lines of all files, including bad ones."""
        return self._first_lines[-1]

    def rows(
        self,
        start: int,
        stop: int,
        bad: BadLines,
        positions: Collection[int] | None = None,
        check: LineCheck | None = None,
    ) -> Iterator[Rows]:
        """Yield the valid ones of lines [start, stop), in blocks.

        Args:
            bad: Receives the bad lines.
            positions: Columns that the caller needs; None: all that the description uses.
            check: Finds further bad lines. It knows what it needs of the lines before `start`.
        Raises:
            DatasetError: A file is damaged, or there are too many bad lines.
        """
        for number, first in enumerate(self._first_lines[:-1]):
            last = self._first_lines[number + 1]
            if start < last and first < stop:
                window = max(start, first) - first, min(stop, last) - first
                read = self._text_rows if self._rows_of[number] is None else self._parquet_rows
                yield from read(number, *window, bad, positions, check)

    def place_of(self, line: int) -> str:
        """Return file and number of a line, in words. Lines are numbered over all files, from 0 on."""
        number = bisect_right(self._first_lines, line, hi=len(self._files)) - 1
        unit, above = ("row", 0) if self._rows_of[number] is not None else ("line", self._header_lines)
        return f"{self._files[number]}: {unit} {line - self._first_lines[number] + above + 1}"

    def _index(self, ranks: Ranks, progress: Progress) -> list[text.LineIndex]:
        """Return the line index of every file. Parquet files have an empty one, because they need no counting."""
        texts = [file for file, rows in zip(self._files, self._rows_of, strict=True) if rows is None]
        indices: list[text.LineIndex] = []
        for read, total, done in text.index_lines(texts, ranks):
            progress("counting lines, by bytes", read, total)
            indices = done or indices
        nothing = text.LineIndex(np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
        return [nothing if rows is not None else indices.pop(0) for rows in self._rows_of]

    def _text_rows(
        self,
        number: int,
        start: int,
        stop: int,
        bad: BadLines,
        positions: Collection[int] | None,
        check: LineCheck | None,
    ) -> Iterator[Rows]:
        above = self._header_lines
        blocks = text.read_lines(self._files[number], self._indices[number], start + above, stop + above)
        for line, content in blocks:
            good, faults = self._grammar.good_lines(content, line)
            try:
                needed = self._kinds.keys() if positions is None or self._depends_on_all else positions
                table = self._grammar.parse(good, needed)
            except pa.ArrowException as error:
                why = " ".join(str(error).split())
                raise DatasetError(
                    f"{self._files[number]}: lines from {line + 1} on cannot be parsed ({why}); correct the file"
                ) from error
            yield self._good_rows(number, line - above, len(table) + len(faults), table, faults, bad, check)

    def _parquet_rows(
        self,
        number: int,
        start: int,
        stop: int,
        bad: BadLines,
        positions: Collection[int] | None,
        check: LineCheck | None,
    ) -> Iterator[Rows]:
        del positions  # whether a row is valid depends on all of its columns
        for row, table, faults in parquet.read_rows(self._files[number], self._use, start, stop):
            num_rows = len(table)
            if faults:
                table = table.take(np.delete(np.arange(num_rows), [row for row, _ in faults])).combine_chunks()
            yield self._good_rows(number, row, num_rows, table, faults, bad, check)

    @property
    def _depends_on_all(self) -> bool:
        """Whether a line may be bad because of more than the patterns of its fields."""
        has_histories = bool(self._history_columns.histories)
        has_checks = self._sequences.are_checked or self._times is not None or has_histories
        return has_checks or self._integers.are_checked or "weight" in self._kinds.values()

    def _good_rows(
        self,
        number: int,
        first: int,
        num_lines: int,
        table: pa.Table,
        faults: Sequence[tuple[int, str]],
        bad: BadLines,
        check: LineCheck | None,
    ) -> Rows:
        """Number the valid rows and report the faults. first: number of the first line in the file, from 0 on."""
        told = dict(faults)
        lines = np.arange(num_lines, dtype=np.int64) + self._first_lines[number] + first
        good = np.delete(np.arange(num_lines), list(told))
        for find in (self._faults, *([] if check is None else [check.faults])):
            if unfit := dict(find(table)):
                rows = sorted(unfit)
                told.update((int(good[row]), unfit[row]) for row in rows)
                good = np.delete(good, rows)
                table = table.take(np.delete(np.arange(len(table)), rows)).combine_chunks()
        for index, fault in sorted(told.items()):
            bad.add(int(lines[index]), f"{self.place_of(int(lines[index]))}: {fault}")
        return Rows(lines[good], table)

    def _faults(self, table: pa.Table) -> Iterator[tuple[int, str]]:
        """Yield the rows, from 0 on, with a fault that depends on several fields or on more than their pattern."""
        yield from self._sequences.faults(table)
        yield from self._weight_faults(table)
        yield from self._integers.faults(table)
        if self._times is not None:
            yield from self._times.faults(table)
        yield from self._history_columns.faults(table)

    def _weight_faults(self, table: pa.Table) -> Iterator[tuple[int, str]]:
        """Yield the rows with a weight that is too large or too small, from 0 on, and what is wrong with it."""
        position = next((place for place, kind in self._kinds.items() if kind == "weight"), None)
        if position is None or str(position) not in table.column_names:
            return
        weights = table.column(str(position)).to_numpy()
        smallest, largest = WEIGHTS
        for row in np.flatnonzero((weights != 0) & ((weights < smallest) | (weights > largest))).tolist():
            allowed = f"0 or a number between {smallest:g} and {largest:g}"
            yield row, describe_fault(position, self.header, f"{weights[row]:g}", allowed)


def _examine(files: Sequence[Path], description: TableDescription, progress: Progress) -> dict[str, Any]:
    """Return the names of the columns, and the number of rows of each file (None: text)."""
    headers, rows = [], []
    for number, file in enumerate(files):
        if number:
            progress("examining files", number, len(files))
        is_parquet = parquet.is_parquet(file)
        headers.append(parquet.header_of(file) if is_parquet else _text_header(file, description))
        if headers[-1] != headers[0]:
            difference = _difference(headers[0], headers[-1])
            raise DatasetError(
                f"{file}: has other columns than {files[0]} ({difference}); import files of one layout at a time"
            )
        try:
            description.kinds(headers[-1])
        except DatasetError as error:
            if log := log_of(description):
                cure = f"the file does not have the layout of the {log} log: import it with `bagpipe import table`"
                raise DatasetError(f"{file}: {error}; {cure}") from None
            hint = "" if is_parquet else delimiter_hint(text.first_line(file), description) or header_hint(headers[-1])
            raise DatasetError(f"{file}: {error}{hint}; correct the schema or the file") from None
        if is_parquet:
            parquet.check_types(file, _use_of(description, headers[-1]))
        rows.append(parquet.num_rows(file) if is_parquet else None)
    return {"header": headers[0], "rows": rows}


def _difference(first: Sequence[str], other: Sequence[str]) -> str:
    for number, (wanted, found) in enumerate(zip(first, other, strict=False), start=1):
        if wanted != found:
            return f"column {number} is {found!r}, not {wanted!r}"
    return f"{len(other)} instead of {len(first)}"


def _use_of(description: TableDescription, header: Sequence[str]) -> parquet.Use:
    columns = [table.column for table in description.lists]
    columns += [element.column for table in description.lists for element in table.elements]
    lists = {position_of(column, header) for column in columns}
    of_rows = (*(column for column, _ in description.single_columns()), *description.history_columns())
    single = {position_of(column, header) for column in of_rows}
    return parquet.Use(description.kinds(header), lists, single, description.missing)


def _text_header(file: Path, description: TableDescription) -> list[str]:
    line = text.first_line(file)
    fields = header_of(line, description)
    if description.columns:
        return description.columns_of(0 if fields is None else len(fields))
    if not line:
        raise DatasetError(
            f"{file}: is empty, or begins with an empty line, so it has no header; remove the file or correct it"
        )
    if fields is None:
        raise DatasetError(f"{file}: line 1: quotes of the header are out of place; correct it, or set quoting: false")
    return fields
