"""The picture of a small synthetic trace."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.timeline.breakdown import REST, break_down
from bagpipe_hpc.timeline.innermost import innermost_pieces
from bagpipe_hpc.timeline.picture import draw_timeline, place_labels
from bagpipe_hpc.timeline.tracks import Span, Timeline, Track


def test_a_span_that_others_interrupt_is_numbered_once_and_numbers_never_collide() -> None:
    spans = [
        Span("a", 0, 40, 7), Span("b", 5, 5.5, 7), Span("x wait", 40, 50, 8), Span("c", 50, 50.5, 1234),
        Span("c", 51, 51.5, 1235), Span("c", 60, 60.5, 1236),
    ]  # fmt: skip
    labels = place_labels(list(innermost_pieces(spans, 0, 100)), 0, 100)
    assert [(label.name, label.text, label.is_inside) for label in labels] == [
        ("a", "7", True), ("c", "1235", False), ("c", "1236", False)
    ]  # fmt: skip
    assert labels[0].x == 22.75  # of the longer piece


def test_the_picture_agrees_with_the_table(timeline: Timeline) -> None:
    iterations = range(1, 3)
    start, stop = timeline.interval(iterations)
    drawn: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for track in timeline.tracks:
        for piece in innermost_pieces(track.spans, start, stop):
            drawn[track.role, track.thread, piece.span.name] += piece.duration
    for (role, thread), activities in break_down(timeline, iterations).items():
        num_threads = sum((track.role, track.thread) == (role, thread) for track in timeline.tracks)
        for activity in activities:
            if activity.name != REST:
                expected = activity.mean * len(iterations) * num_threads
                assert drawn[role, thread, activity.name] == pytest.approx(expected)


def test_threads_that_did_nothing_are_in_neither(timeline: Timeline, tmp_path: Path) -> None:
    idle = Track("oracle 0 (rank 0, host)", "metrics", "oracle", [Span("metrics", 1000, 1001, None)])
    timeline.tracks.append(idle)
    assert ("oracle", "metrics") not in break_down(timeline, range(2))
    draw_timeline(timeline, range(2), tmp_path / "a.svg")
    assert "metrics" not in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(("name", "signature"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_picture(timeline: Timeline, tmp_path: Path, name: str, signature: bytes) -> None:
    draw_timeline(timeline, range(2, 4), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(signature)


def test_the_picture_shows_who_did_what(timeline: Timeline, tmp_path: Path) -> None:
    draw_timeline(timeline, range(2, 4), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    words = [
        "oracle 0: main",
        "trainer 1: prefetch",
        "compute",
        "brooding",
        "waiting",
        "Iterations 2 to 3",
        "milliseconds",
    ]
    assert [word for word in words if f"<!-- {word}" not in drawn] == []
    assert "<!-- read batch" not in drawn


def test_a_picture_of_no_known_format(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"a.txt has no format that can be drawn: end its name in .png, .svg, .pdf"):
        draw_timeline(timeline, range(2), tmp_path / "a.txt")
