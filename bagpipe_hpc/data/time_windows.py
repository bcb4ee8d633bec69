"""Windows of data time: training samples cut at the multiples of a width, such as days.

A window holds the samples whose times are at least one multiple of the width, and below the next one. Windows without
samples are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.data.dataset import Progress, Split, no_progress
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.sharding import Int64Array

MAX_WINDOWS = 10**6
_PIECE = 1 << 20  # samples


@dataclass(frozen=True)
class TimeWindow:
    """Consecutive samples of one stretch of time.

    Args:
        start, stop: The stretch: times t with start <= t < stop, in the unit of the data set.
        first, last: Samples [first, last) of the split.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def num_samples(self) -> int:
        """The number of samples, at least 1."""
        return self.last - self.first


def windows_of(pieces: Iterable[Int64Array], width: int) -> list[TimeWindow]:
    """Cut consecutive samples into windows.

    Args:
        pieces: The times of all samples, never falling, int64, shape (n,) each, n at least 1.
        width: The width of a window, in the unit of the times, at least 1.
    Raises:
        ConfigError: There are more than MAX_WINDOWS windows.
    """
    numbers: list[int] = []  # of the windows: each has the times of [number * width, (number + 1) * width)
    firsts: list[int] = []
    num_samples = 0
    for times in pieces:
        number = times // width
        places = np.flatnonzero(np.diff(number)) + 1
        if not numbers or number[0] != numbers[-1]:
            places = np.concatenate([[0], places])
        numbers += number[places].tolist()
        firsts += (places + num_samples).tolist()
        num_samples += len(times)
        if len(numbers) > MAX_WINDOWS:
            raise ConfigError(
                f"training.time_window is {width}, which cuts the training samples into more than {MAX_WINDOWS:,} "
                "windows; give a larger one"
            )
    return [
        TimeWindow(number * width, (number + 1) * width, first, last)
        for number, first, last in zip(numbers, firsts, [*firsts[1:], num_samples], strict=True)
    ]


def read_windows(split: Split, width: int, progress: Progress = no_progress) -> list[TimeWindow]:
    """Read the times of all samples of a split, and cut them into windows. The schema has times.

    Raises:
        ConfigError: There are more than MAX_WINDOWS windows.
        DatasetError: The times cannot be read, or fall somewhere; names shard, sample and both times.
    """
    return windows_of(_times_of(split, progress), width)


def _times_of(split: Split, progress: Progress) -> Iterator[Int64Array]:
    before: int | None = None
    num_read = 0
    for shard in split.shards:
        with split.open_shard(shard) as reader:
            for start in range(0, shard.num_samples, _PIECE):
                progress("reading the times of samples", num_read, split.num_samples)
                times = reader.times(start, min(start + _PIECE, shard.num_samples), before)
                before = int(times[-1])
                num_read += len(times)
                yield times
