from __future__ import annotations

import io
import threading

import pytest

from bagpipe_hpc.activity import Activity, showing_activity, ticking


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_at_once_and_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    activity = Activity(stream, is_live=False, clock=clock)
    activity("counting lines")
    for second in range(1, 26):
        clock.now = float(second)
        activity("counting lines", second * 100, 10_000)
        activity.tick()
    activity("writing shards", 0, 10_000)
    clock.now = 40.0
    activity.tick()
    assert stream.getvalue().splitlines() == [
        "counting lines",
        "counting lines: 1,000 of 10,000 (10%), ETA 0:01:30",
        "counting lines: 2,000 of 10,000 (20%), ETA 0:01:20",
        "writing shards",
        "writing shards: 0:00:15 so far",
    ]


def test_a_phase_whose_share_was_told_is_told_to_be_done() -> None:
    stream = io.StringIO()
    activity = Activity(stream, is_live=False, clock=Clock())
    activity("counting lines", 100, 10_000)
    activity("counting lines", 10_000, 10_000)
    activity("merging", 0, 5)
    activity("merging", 5, 5)
    activity("writing shards", 10, 10)
    activity("verifying", 2, 8)
    activity("verifying", 8, 8)
    activity.end()
    activity.end()
    assert stream.getvalue().splitlines() == [
        "counting lines: 100 of 10,000 (1%)",
        "counting lines: 10,000 of 10,000 (100%)",
        "merging",
        "writing shards: 10 of 10 (100%)",
        "verifying: 2 of 8 (25%)",
        "verifying: 8 of 8 (100%)",
    ]


def test_without_a_total_there_is_no_guess() -> None:
    stream, clock = io.StringIO(), Clock()
    activity = Activity(stream, is_live=False, clock=clock)
    activity("reading", 0)
    clock.now = 10.0
    activity("reading", 1234)
    activity.tick()
    assert stream.getvalue() == "reading\nreading: 1,234, 0:00:10 so far\n"


def test_a_live_line_is_written_over_and_gone_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    activity = Activity(stream, is_live=True, clock=clock)
    activity("reading [bold]:m: " + "x" * 200)
    clock.now = 0.1
    activity.tick()  # too early
    clock.now = 0.3
    activity.tick()
    with activity.paused():
        stream.write("good\n")
    activity.end()
    activity.tick()
    *_, first, second, third, last = stream.getvalue().split("\r\x1b[K")
    assert (first, second, third, last) == (first, first, "good\n", "")
    assert first.startswith("reading [bold]:m: xxx")
    assert len(first) == 79


def test_a_stream_that_breaks_does_not_end_the_work() -> None:
    stream = io.StringIO()
    activity = Activity(stream, is_live=True)
    stream.close()
    activity("reading")
    activity("writing")
    activity.end()


def test_a_thread_ticks_until_the_block_ends() -> None:
    ticked = threading.Event()
    with ticking(ticked.set, seconds=0.001):
        assert ticked.wait(timeout=60)
    assert not [thread for thread in threading.enumerate() if thread.name == "activity"]


def test_commands_show_their_activity_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_activity("opening DIR") as activity:
        activity("reading", 1, 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "opening DIR\nreading: 1 of 2 (50%)\n")
