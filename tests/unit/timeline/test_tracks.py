"""Tracks of a small synthetic trace, and choices of its iterations."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.timeline.merge import merge_traces
from bagpipe_hpc.timeline.tracks import Span, Timeline, read_timeline
from bagpipe_hpc.trace import write_trace
from tests.unit.timeline.synthetic import write_ranks


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


def test_the_middle_is_of_training_iterations_where_evaluations_stand_between_them() -> None:
    iterations = [0, 1, 2, 23, 24, 25, 46, 47]
    timeline = Timeline(tracks=[], iterations=iterations, missing_ranks=[], num_dropped=0, clock_error=0.0)
    assert timeline.middle(2) == range(23, 25)
    assert timeline.middle(4) == range(2, 26)
