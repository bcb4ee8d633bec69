"""Where the time went: the fraction of each activity, by role and thread."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from bagpipe_hpc.timeline.innermost import innermost_pieces
from bagpipe_hpc.timeline.tracks import Timeline, Track

REST = "(nothing traced)"


@dataclass(frozen=True)
class Activity:
    """What threads of one kind did under one name, without the spans inside.

    Args:
        share: Fraction of the time of these threads.
        mean: Milliseconds per iteration and thread.
        median: Median over iterations of the milliseconds per thread; None if the spans belong to no iteration.
    """

    name: str
    share: float
    mean: float
    median: float | None


def break_down(timeline: Timeline, iterations: range) -> dict[tuple[str, str], list[Activity]]:
    """Return the activities by (role, thread) while these iterations were trained.

    For each thread the largest comes first, and the fractions add up to 1. Threads without spans are left out.
    """
    threads: defaultdict[tuple[str, str], list[Track]] = defaultdict(list)
    for track in timeline.tracks:
        threads[track.role, track.thread].append(track)
    start, stop = timeline.interval(iterations)
    found = {kind: _activities(tracks, iterations, start, stop) for kind, tracks in threads.items()}
    return {kind: activities for kind, activities in found.items() if [each.name for each in activities] != [REST]}


def _activities(tracks: list[Track], iterations: range, start: float, stop: float) -> list[Activity]:
    inside: defaultdict[str, float] = defaultdict(float)  # within the interval, for all iterations
    own: defaultdict[str, defaultdict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
    for index, track in enumerate(tracks):
        for piece in innermost_pieces(track.spans, start, stop):
            inside[piece.span.name] += piece.duration
        for piece in innermost_pieces(track.spans):
            if piece.span.iteration is not None and piece.span.iteration in iterations:
                own[piece.span.name][index, piece.span.iteration] += piece.duration
    available = (stop - start) * len(tracks)
    inside[REST] = max(0.0, available - sum(inside.values()))
    to_mean = len(tracks) * len(iterations)
    return [
        Activity(name, total / available, total / to_mean, statistics.median(own[name].values()) if own[name] else None)
        for name, total in sorted(inside.items(), key=lambda item: (-item[1], item[0]))
        if total > 0
    ]
