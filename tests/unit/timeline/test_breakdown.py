"""Where the time of a small synthetic trace went."""

from __future__ import annotations

import pytest

from bagpipe_hpc.timeline.breakdown import REST, break_down
from bagpipe_hpc.timeline.tracks import Timeline


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
