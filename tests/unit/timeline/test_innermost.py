"""Spans cut into pieces, each of the innermost one."""

from __future__ import annotations

from bagpipe_hpc.timeline.innermost import innermost_pieces
from bagpipe_hpc.timeline.tracks import Span


def test_every_moment_belongs_to_the_innermost_span() -> None:
    spans = [Span("a", 0, 10, 0), Span("b", 1, 4, 0), Span("c", 2, 3, 0), Span("b", 5, 6, 0), Span("d", 10, 12, 1)]
    assert [(piece.span.name, piece.start, piece.stop) for piece in innermost_pieces(spans)] == [
        ("a", 0, 1), ("b", 1, 2), ("c", 2, 3), ("b", 3, 4), ("a", 4, 5), ("b", 5, 6), ("a", 6, 10), ("d", 10, 12)
    ]  # fmt: skip
    assert [(piece.span.name, piece.start, piece.stop) for piece in innermost_pieces(spans, 2.5, 5.5)] == [
        ("c", 2.5, 3), ("b", 3, 4), ("a", 4, 5), ("b", 5, 5.5)
    ]  # fmt: skip
