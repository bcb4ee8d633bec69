"""Tracks, where the time went, and the picture, of a small synthetic trace."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.timeline.breakdown import REST, break_down
from bagpipe_hpc.timeline.innermost import innermost_pieces
from bagpipe_hpc.timeline.merge import merge_traces
from bagpipe_hpc.timeline.picture import draw_timeline, place_labels
from bagpipe_hpc.timeline.tracks import Span, Timeline, Track, read_timeline
from bagpipe_hpc.trace import write_trace
from tests.unit.timeline.synthetic import write_ranks


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    write_ranks(tmp_path)
    return read_timeline(merge_traces(tmp_path))


def test_tracks(timeline: Timeline) -> None:
    assert [(track.role, track.process, track.thread) for track in timeline.tracks] == [
        ("oracle", "oracle 0 (rank 0, host)", "main"),
        ("server", "server 0 (rank 1, host)", "main"),
        ("trainer", "trainer 0 (rank 2, host)", "main"),
        ("trainer", "trainer 0 (rank 2, host)", "prefetch"),
        ("trainer", "trainer 1 (rank 3, host)", "main"),
        ("trainer", "trainer 1 (rank 3, host)", "prefetch"),
    ]
    assert timeline.tracks[3].spans[1] == Span("get", -12.0, -11.0, 0)
    assert timeline.iterations == [0, 1, 2, 3, 4, 5]
    assert (timeline.missing_ranks, timeline.num_dropped) == ([], 0)


def test_a_choice_of_iterations(timeline: Timeline) -> None:
    assert timeline.choose(range(4, 100)) == range(4, 6)
    assert timeline.middle(2) == range(2, 4)
    assert timeline.middle(10) == range(6)
    assert timeline.interval(range(2, 4)) == (20, 40)
    with pytest.raises(TraceError, match=r"--iterations 6:9 chooses none: the trace has 0:6"):
        timeline.choose(range(6, 9))


def test_missing_ranks(tmp_path: Path) -> None:
    write_ranks(tmp_path, ranks=(0, 2))
    timeline = read_timeline(merge_traces(tmp_path))
    assert timeline.missing_ranks == [1, 3]


def test_a_trace_of_one_rank_is_not_a_merged_one(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", [], {"rank": 0, "world_size": 1})
    with pytest.raises(TraceError, match="is not a merged trace; delete it"):
        read_timeline(tmp_path / "trace.json")


def test_every_moment_belongs_to_the_innermost_span() -> None:
    spans = [Span("a", 0, 10, 0), Span("b", 1, 4, 0), Span("c", 2, 3, 0), Span("b", 5, 6, 0), Span("d", 10, 12, 1)]
    assert [(piece.span.name, piece.start, piece.stop) for piece in innermost_pieces(spans)] == [
        ("a", 0, 1), ("b", 1, 2), ("c", 2, 3), ("b", 3, 4), ("a", 4, 5), ("b", 5, 6), ("a", 6, 10), ("d", 10, 12)
    ]  # fmt: skip
    assert [(piece.span.name, piece.start, piece.stop) for piece in innermost_pieces(spans, 2.5, 5.5)] == [
        ("c", 2.5, 3), ("b", 3, 4), ("a", 4, 5), ("b", 5, 5.5)
    ]  # fmt: skip


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


def test_where_the_time_went(timeline: Timeline) -> None:
    activities = break_down(timeline, range(1, 3))
    assert list(activities) == [
        ("oracle", "main"), ("server", "main"), ("trainer", "main"), ("trainer", "prefetch")
    ]  # fmt: skip
    assert [(a.name, round(a.share, 6), round(a.mean, 6), a.median) for a in activities["trainer", "main"]] == [
        ("compute", 0.5, 5, 5), ("exchange", 0.2, 2, 2), ("iteration", 0.2, 2, 2), ("brooding", 0.1, 1, 1)
    ]  # fmt: skip
    assert [(a.name, round(a.mean, 6)) for a in activities["server", "main"]] == [
        ("receive plan", 6), (REST, 3), ("gather", 1)
    ]  # fmt: skip
    assert all(sum(a.share for a in found) == pytest.approx(1) for found in activities.values())


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


def test_the_middle_is_of_training_iterations_where_evaluations_stand_between_them() -> None:
    iterations = [0, 1, 2, 23, 24, 25, 46, 47]
    timeline = Timeline(tracks=[], iterations=iterations, missing_ranks=[], num_dropped=0, clock_error=0.0)
    assert timeline.middle(2) == range(23, 25)
    assert timeline.middle(4) == range(2, 26)
