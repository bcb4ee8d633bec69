"""Where the time went: per role and thread, the share of each activity."""

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
        share: Of the time that these threads had.
        mean: Milliseconds per iteration and thread.
        median: Of the milliseconds that belong to one iteration, per thread; None for what belongs to none.
    """

    name: str
    share: float
    mean: float
    median: float | None


def break_down(timeline: Timeline, iterations: range) -> dict[tuple[str, str], list[Activity]]:
    """Return the activities by (role, thread) while these iterations were trained.

    Of each thread the largest share comes first, and the shares add up to 1. Threads that did nothing are left out.
    """
    threads: defaultdict[tuple[str, str], list[Track]] = defaultdict(list)
    for track in timeline.tracks:
        threads[track.role, track.thread].append(track)
    start, stop = timeline.interval(iterations)
    found = {kind: _activities(tracks, iterations, start, stop) for kind, tracks in threads.items()}
    return {kind: activities for kind, activities in found.items() if [each.name for each in activities] != [REST]}


def _activities(tracks: list[Track], iterations: range, start: float, stop: float) -> list[Activity]:
    inside: defaultdict[str, float] = defaultdict(float)  # within the interval, whatever the iteration
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
