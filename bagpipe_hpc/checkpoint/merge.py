"""Merging sorted streams of rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


class RowStream:
    """Sorted pieces of rows, from which rows are taken by key.

    Args:
        pieces: Keys int64, shape (n,), strictly ascending, also across pieces; rows float32, shape (n, row_width).
    """

    def __init__(self, pieces: Iterator[Rows]) -> None:
        self._pieces = pieces
        self._head: Rows | None = None

    def fill(self) -> bool:
        """Make sure that a piece with at least one row is loaded; return False at the end."""
        while self._head is None or len(self._head[0]) == 0:
            self._head = next(self._pieces, None)
            if self._head is None:
                return False
        return True

    @property
    def last_key(self) -> int:
        """The greatest key of the loaded piece. Use it only after `fill` has returned True."""
        assert self._head is not None
        return int(self._head[0][-1])

    def take(self, end_key: int) -> Rows:
        """Remove and return the loaded rows whose keys are below end_key."""
        assert self._head is not None
        keys, rows = self._head
        stop = int(np.searchsorted(keys, end_key))
        self._head = keys[stop:], rows[stop:]
        return keys[:stop], rows[:stop]

    def take_all(self, end_key: int) -> Iterator[Rows]:
        """Yield all rows whose keys are below end_key, in pieces."""
        while self.fill():
            keys, rows = self.take(end_key)
            if len(keys) == 0:
                return
            yield keys, rows


def merge_newest(streams: Sequence[Iterator[Rows]]) -> Iterator[Rows]:
    """Merge streams into one, in ascending key order. Of rows with equal keys, that of the last stream remains.

    Keeps one piece of each stream in memory.
    """
    live = [RowStream(stream) for stream in streams]
    while live := [stream for stream in live if stream.fill()]:
        # All rows up to this key are loaded: later pieces have only greater keys.
        end_key = min(stream.last_key for stream in live) + 1
        keys, rows = _concatenate([stream.take(end_key) for stream in live])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        is_newest = np.append(keys[1:] != keys[:-1], True)
        yield keys[is_newest], rows[order[is_newest]]


def _concatenate(pieces: list[Rows]) -> Rows:
    keys, rows = zip(*pieces, strict=True)
    return np.concatenate(keys), np.concatenate(rows)
