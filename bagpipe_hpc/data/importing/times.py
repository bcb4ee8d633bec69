"""The times of samples: integers, or texts of a format. They never fall from one sample to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.importing.description import Time, position_of
from bagpipe_hpc.data.importing.grammar import describe_fault
from bagpipe_hpc.data.importing.ranks import Ranks, allgather_json
from bagpipe_hpc.data.importing.sequences import column_of
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.sharding import Int64Array

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Times:
    """Reads the times of rows, and finds rows without a valid one.

    Args:
        time: The column.
        header: Names of all columns.
    """

    def __init__(self, time: Time, header: Sequence[str]) -> None:
        self._time, self._header = time, header

    def read(self, rows: pa.Table) -> Int64Array:
        """Return the times of rows, int64, shape (num_rows,); 0 where a row has no valid one.

        Args:
            rows: Columns, named by their positions.
        """
        return np.asarray(self._parsed(rows).fill_null(0).to_numpy(), np.int64)

    def faults(self, rows: pa.Table) -> Iterator[tuple[int, str]]:
        """Yield the rows without a valid time, from 0 on, and what is wrong."""
        parsed = self._parsed(rows)
        if not parsed.null_count:
            return
        column = column_of(rows, self._time.column, self._header)
        allowed = "an integer of at most 18 digits"
        if self._time.format is not None:
            allowed = f"a time of the format {self._time.format!r}"
        for row in np.flatnonzero(np.asarray(parsed.is_null())).tolist():
            value = (column[row].as_py() or b"")[:40].decode("utf-8", "replace")
            yield row, describe_fault(position_of(self._time.column, self._header), self._header, value, allowed)

    def _parsed(self, rows: pa.Table) -> pa.Array:
        """Return the times, int64; null where there is no valid one."""
        column = column_of(rows, self._time.column, self._header)
        if pa.types.is_integer(column.type):  # seconds of timestamps and dates of Parquet
            return column
        texts = column.cast(pa.string(), safe=False)
        if self._time.format is not None:
            different = texts.dictionary_encode()
            seconds = [_seconds(text, self._time.format) for text in different.dictionary.to_pylist()]
            return pa.array(seconds, pa.int64()).take(different.indices)
        is_integer = pc.match_substring_regex(texts, "^-?[0-9]{1,18}$")
        return pc.if_else(is_integer, texts, pa.scalar(None, pa.string())).cast(pa.int64())


def _seconds(text: str | None, form: str) -> int | None:
    """Return the time of a text in seconds since 1970, rounded down; None if it is not of the format."""
    try:
        found = datetime.strptime(text or "", form)
    except ValueError:
        return None
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return (found - _EPOCH) // timedelta(seconds=1)


class TimeOrder:
    """Checks that the times of consecutive samples never fall, on all ranks together.

    Args:
        place_of: Returns file and line of a line that is numbered over all files.
        column: The column of the times, for messages.
    """

    def __init__(self, place_of: Callable[[int], str], column: str) -> None:
        self._place_of, self._column = place_of, column
        self._first: tuple[int, int] | None = None  # line and time of the first sample of this rank
        self._last: tuple[int, int] | None = None

    def watch(self, samples: Iterator[tuple[Int64Array, Batch]]) -> Iterator[tuple[Int64Array, Batch]]:
        """Yield lines and samples of this rank.

        Raises:
            DatasetError: A time is before that of the sample before it; names both.
        """
        for lines, batch in samples:
            if batch.times is not None and len(lines):
                self._take(lines, batch.times)
            yield lines, batch

    def check_ranks(self, ranks: Ranks) -> None:
        """Check the first time of each rank against the last one of the rank before it. Communication: collective.

        Raises:
            DatasetError: On rank 0: a time is before that of the sample before it.
        """
        found = allgather_json(ranks, [list(self._first or ()), list(self._last or ())])
        borders = [borders for borders in found if borders[0]]
        for (_, (line, time)), ((next_line, next_time), _) in pairwise(borders):
            if ranks.rank == 0 and next_time < time:
                self._refuse((line, time), (next_line, next_time))

    def _take(self, lines: Int64Array, times: Int64Array) -> None:
        if self._last is not None and times[0] < self._last[1]:
            self._refuse(self._last, (int(lines[0]), int(times[0])))
        if len(falls := np.flatnonzero(np.diff(times) < 0)):
            fall = int(falls[0])
            before, after = ((int(lines[each]), int(times[each])) for each in (fall, fall + 1))
            self._refuse(before, after)
        self._first = self._first or (int(lines[0]), int(times[0]))
        self._last = int(lines[-1]), int(times[-1])

    def _refuse(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        raise DatasetError(
            f"{self._place_of(after[0])}: column {self._column} is {after[1]}, but that of {self._place_of(before[0])} "
            f"is {before[1]}, and times must not fall; sort the samples by time and give the files in time order, or "
            "remove `time` from the schema"
        )
