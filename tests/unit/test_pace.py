from __future__ import annotations

import pytest

from bagpipe_hpc.pace import MIN_SECONDS, RECENT_SECONDS, Pace, clock_text


def test_nothing_is_known_before_something_was_done_for_a_while() -> None:
    pace = Pace(100.0)
    assert (pace.per_second(), pace.seconds_left(10)) == (None, None)
    pace.note(100.0 + MIN_SECONDS / 2, 5)
    assert pace.per_second() is None
    pace.note(102.0, 10)
    assert (pace.per_second(), pace.seconds_left(60)) == (5.0, 10.0)


def test_what_was_done_before_does_not_count_as_speed() -> None:
    pace = Pace(0.0, done=1000)
    pace.note(10.0, 1020)
    assert pace.per_second() == 2.0


def test_the_speed_is_the_recent_one() -> None:
    pace = Pace(0.0)
    for second in range(1, 101):
        pace.note(float(second), second)  # 1 a second
    for second in range(101, 101 + int(RECENT_SECONDS) + 1):
        pace.note(float(second), 100 + 50 * (second - 100))
    assert pace.per_second() == pytest.approx(50.0, rel=0.05)


def test_many_notes_keep_few_marks() -> None:
    pace = Pace(0.0)
    for step in range(100_000):
        pace.note(step / 1000, step)
    assert len(pace._marks) < 200
    assert pace.per_second() == pytest.approx(1000.0, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (360000, "100:00:00")]
)
def test_durations_are_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
