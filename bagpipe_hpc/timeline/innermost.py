"""The innermost span of a thread at each moment, on which the table and the picture are based."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bagpipe_hpc.timeline.tracks import Span


class Piece(NamedTuple):
    """A part of a span in which no span inside it runs.

    Args:
        start, stop: Times in milliseconds.
    """

    span: Span
    start: float
    stop: float

    @property
    def duration(self) -> float:
        """Milliseconds."""
        return self.stop - self.start


def innermost_pieces(spans: list[Span], start: float = float("-inf"), stop: float = float("inf")) -> Iterator[Piece]:
    """Yield the pieces of a thread's spans between start and stop, in order of time. They do not overlap.

    Args:
        spans: Spans of one thread, ordered by start, an outer span before those inside it.
    """
    for piece in _all_pieces(spans):
        cut = Piece(piece.span, max(piece.start, start), min(piece.stop, stop))
        if cut.start < cut.stop:
            yield cut


def _all_pieces(spans: list[Span]) -> Iterator[Piece]:
    open_spans: list[Span] = []
    since = float("-inf")  # everything before this time is already in a piece
    for span in spans:
        while open_spans and open_spans[-1].stop <= span.start:
            yield Piece(open_spans[-1], since, open_spans[-1].stop)
            since = max(since, open_spans.pop().stop)
        if open_spans:
            yield Piece(open_spans[-1], since, span.start)
        since = max(since, span.start)
        open_spans.append(span)
    while open_spans:
        yield Piece(open_spans[-1], since, open_spans[-1].stop)
        since = max(since, open_spans.pop().stop)
