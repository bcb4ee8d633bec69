"""Where the time went: per role and thread, the share of each activity."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from bagpipe_hpc.timeline.tracks import Span, Timeline, Track

REST = "(nothing traced)"


@dataclass(frozen=True)
class Activity:
    """What threads of one kind did under one name, without the spans inside.

    Args:
        share: Of the time that these threads had.
        mean: Milliseconds per iteration and thread.
        median: Of the milliseconds that belong to one iteration, per thread; None for what belongs to none.
    """

    name: str
    share: float
    mean: float
    median: float | None


def break_down(timeline: Timeline, iterations: range) -> dict[tuple[str, str], list[Activity]]:
    """Activities by (role, thread) while these iterations were trained; largest first, shares add up to 1."""
    threads: defaultdict[tuple[str, str], list[Track]] = defaultdict(list)
    for track in timeline.tracks:
        threads[track.role, track.thread].append(track)
    start, stop = timeline.interval(iterations)
    return {kind: _activities(tracks, iterations, start, stop) for kind, tracks in threads.items()}


def _activities(tracks: list[Track], iterations: range, start: float, stop: float) -> list[Activity]:
    inside: defaultdict[str, float] = defaultdict(float)  # within the interval, whatever the iteration
    own: defaultdict[str, defaultdict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
    for index, track in enumerate(tracks):
        for span, seconds in self_times(track.spans, start, stop):
            inside[span.name] += seconds
        for span, seconds in self_times(track.spans):
            if span.iteration is not None and span.iteration in iterations:
                own[span.name][index, span.iteration] += seconds
    available = (stop - start) * len(tracks)
    inside[REST] = max(0.0, available - sum(inside.values()))
    to_mean = len(tracks) * len(iterations)
    return [
        Activity(name, total / available, total / to_mean, statistics.median(own[name].values()) if own[name] else None)
        for name, total in sorted(inside.items(), key=lambda item: -item[1])
        if total > 0
    ]


def self_times(
    spans: list[Span], start: float = float("-inf"), stop: float = float("inf")
) -> Iterator[tuple[Span, float]]:
    """Every span with its milliseconds between start and stop that no span inside it covers.

    Args:
        spans: Of one thread, by start, one before those inside it.
    """
    open_spans: list[tuple[Span, float]] = []  # each with what spans inside it cover
    for span in spans:
        while open_spans and open_spans[-1][0].stop <= span.start:
            yield _closed(open_spans, start, stop)
        open_spans.append((span, 0.0))
    while open_spans:
        yield _closed(open_spans, start, stop)


def _closed(open_spans: list[tuple[Span, float]], start: float, stop: float) -> tuple[Span, float]:
    span, covered = open_spans.pop()
    duration = max(0.0, min(span.stop, stop) - max(span.start, start))
    if open_spans:
        outer, covered_there = open_spans[-1]
        open_spans[-1] = outer, covered_there + duration
    return span, max(0.0, duration - covered)
