"""Time from plan to plan."""

from __future__ import annotations

from bagpipe_hpc.trainer.iteration_timer import Laps


def test_what_counts_is_kept_apart() -> None:
    readings = iter([5, 7, 8, 12, 20])
    laps = Laps(lambda: next(readings) * 10**9)
    for counts in (True, True, False, True, False):  # the first only begins
        laps.end(counts=counts)
    assert laps.seconds == 6.0
    assert laps.lap_seconds().tolist() == [2.0, 4.0]
    assert laps.other_seconds == 9.0
