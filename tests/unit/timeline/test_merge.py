"""The ranks' traces in one, with arrows from cause to effect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.timeline.merge import delete_traces, find_trace, merge_traces, merged_file, rank_file
from bagpipe_hpc.trace import Event, read_trace, write_trace
from tests.unit.timeline.synthetic import write_ranks


def arrows_of(events: list[Event], iteration: int) -> list[tuple[str, int, int]]:
    """Name, rank left and rank reached of every arrow of an iteration."""
    of_iteration = [event for event in events if event["ph"] in "sf" and event["args"]["iteration"] == iteration]
    starts = {event["id"]: event for event in of_iteration if event["ph"] == "s"}
    stops = {event["id"]: event for event in of_iteration if event["ph"] == "f"}
    assert starts.keys() == stops.keys()
    for number, start in starts.items():
        assert (start["name"], start["cat"]) == (stops[number]["name"], stops[number]["cat"])
        assert start["ts"] < stops[number]["ts"]
    return sorted((start["name"], start["pid"], stops[number]["pid"]) for number, start in starts.items())


def enclosing(events: list[Event], flow: Event) -> str:
    """Name of the innermost span that a flow event lies in."""
    spans = [
        event for event in events if event["ph"] == "X" and (event["pid"], event["tid"]) == (flow["pid"], flow["tid"])
    ]
    around = [span for span in spans if span["ts"] < flow["ts"] < span["ts"] + span["dur"]]
    return str(max(around, key=lambda span: span["ts"])["name"])


def test_everything_is_there_once(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    merged, header = read_trace(merge_traces(tmp_path))
    single = [event for rank in range(4) for event in read_trace(rank_file(tmp_path, rank))[0]]
    assert [event for event in merged if event["ph"] not in "sf"] == single
    assert header["ranks"] == [0, 1, 2, 3]
    assert header["world_size"] == 4


def test_arrows_lead_from_the_plan_to_its_use(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    events, _ = read_trace(merge_traces(tmp_path))
    expected = [
        ("plan", 0, 1),
        ("plan", 0, 2),
        ("plan", 0, 3),
        ("rows", 1, 2),
        ("rows", 1, 3),
        ("use", 2, 2),
        ("use", 3, 3),
    ]
    assert all(arrows_of(events, iteration) == expected for iteration in range(6))
    flows = [event for event in events if event["ph"] in "sf"]
    assert max(Counter(event["id"] for event in flows).values()) == 2
    ends = {(flow["name"], flow["ph"], enclosing(events, flow)) for flow in flows}
    assert ends == {
        ("plan", "s", "send"), ("plan", "f", "receive plan"), ("rows", "s", "gather"), ("rows", "f", "get"),
        ("use", "s", "get"), ("use", "f", "compute"),
    }  # fmt: skip
    assert all(flow["bp"] == "e" for flow in flows if flow["ph"] == "f")


def test_no_arrow_points_back_in_time(tmp_path: Path) -> None:
    span = {"ph": "X", "cat": "x", "tid": 0, "dur": 1.0, "args": {"iteration": 0}}
    rank_file(tmp_path, 0).parent.mkdir()
    write_trace(rank_file(tmp_path, 0), [span | {"name": "send", "pid": 0, "ts": 50.0}], {"rank": 0})
    write_trace(rank_file(tmp_path, 1), [span | {"name": "receive plan", "pid": 1, "ts": 5.0}], {"rank": 1})
    events, _ = read_trace(merge_traces(tmp_path))
    assert [event["ph"] for event in events] == ["X", "X"]


def test_ranks_come_in_order_and_may_be_missing(tmp_path: Path) -> None:
    rank_file(tmp_path, 0).parent.mkdir()
    for rank in (10, 9, 0):
        write_trace(
            rank_file(tmp_path, rank), [], {"rank": rank, "world_size": 11, "dropped": 2, "clock_error_us": rank}
        )
    _, header = read_trace(find_trace(tmp_path))
    assert header["ranks"] == [0, 9, 10]
    assert (header["dropped"], header["clock_error_us"]) == (6, 10)


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"has no trace: run the job with `bagpipe train --trace`"):
        find_trace(tmp_path)


def test_an_earlier_run_leaves_nothing(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    merge_traces(tmp_path)
    delete_traces(tmp_path)
    assert not merged_file(tmp_path).exists()
    assert not list((tmp_path / "trace").iterdir())
