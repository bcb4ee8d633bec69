"""Spans, by an injected clock, and the file that they become."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc import trace
from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.rank_thread import start_thread
from bagpipe_hpc.trace import ALL_ITERATIONS, FORMAT, Event, Tracer, parse_iterations, read_trace


@pytest.fixture(autouse=True)
def _tracing_off_afterwards() -> Iterator[None]:
    yield
    trace.install(None)


def tracer_to(path: Path, **options: Any) -> Tracer:
    """A tracer whose clock advances by 1000 ns each time it is read."""
    clock = count(1_000_000, 1000)
    common: dict[str, Any] = {"rank": 3, "world_size": 5, "role": "trainer", "name": "trainer 1 (rank 3, a)"}
    tracer = Tracer(path, **common | {"clock": lambda: next(clock), "origin_ns": 1_000_000} | options)
    trace.install(tracer)
    return tracer


def spans_in(path: Path) -> list[tuple[str, float, float, int | None]]:
    events, _ = read_trace(path)
    spans = [event for event in events if event["ph"] == "X"]
    return [(span["name"], span["ts"], span["dur"], span["args"].get("iteration")) for span in spans]


def test_off_it_does_nothing() -> None:
    items = [1, 2]
    with trace.span("compute", 3) as span:
        span.iteration = 4
    trace.record("compute", 1, 2)
    trace.save()
    assert trace.each("read", items) is items


def test_spans_nest_and_inherit_their_iteration(tmp_path: Path) -> None:
    tracer_to(tmp_path / "rank3.json")
    with trace.span("start"):
        pass
    with trace.span("iteration", 7):  # from 2 us
        with trace.span("compute"):  # 3 to 4
            pass
        trace.record("update", 1_004_500, 1_004_750)
        with trace.span("get", 9):
            pass
    trace.save()
    assert spans_in(tmp_path / "rank3.json") == [
        ("start", 0, 1, None),
        ("iteration", 2, 5, 7),
        ("compute", 3, 1, 7),
        ("update", 4.5, 0.25, 7),
        ("get", 5, 1, 9),
    ]


def test_the_iteration_may_be_known_only_inside(tmp_path: Path) -> None:
    tracer_to(tmp_path / "rank3.json", iterations=range(5, 6))
    for iteration in (4, 5, 6):
        with trace.span("receive plan") as span:
            span.iteration = iteration
    with trace.span("end"):
        pass
    trace.save()
    assert [(name, iteration) for name, _, _, iteration in spans_in(tmp_path / "rank3.json")] == [
        ("receive plan", 5),
        ("end", None),
    ]


def test_a_block_that_fails_is_traced(tmp_path: Path) -> None:
    tracer_to(tmp_path / "rank3.json")
    with pytest.raises(ValueError, match="on purpose"), trace.span("compute", 0):
        raise ValueError("on purpose")
    trace.save()
    assert len(spans_in(tmp_path / "rank3.json")) == 1


def test_making_items_is_traced_not_their_use(tmp_path: Path) -> None:
    tracer = tracer_to(tmp_path / "rank3.json")
    used = 0
    for _ in trace.each("read", iter("ab")):
        tracer.clock()
        used += 1
    trace.save()
    assert used == 2
    assert spans_in(tmp_path / "rank3.json") == [("read", 0, 1, 0), ("read", 3, 1, 1)]


def test_every_thread_has_its_own_track(tmp_path: Path) -> None:
    tracer_to(tmp_path / "rank3.json")

    def work(iteration: int) -> None:
        with trace.span("get", iteration):
            pass

    with trace.span("iteration", 0):
        for iteration, name in enumerate(("prefetch", "sync")):
            start_thread(name, work, iteration).join()
    trace.save()
    events, _ = read_trace(tmp_path / "rank3.json")
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    spans = {names[event["tid"]]: event["args"]["iteration"] for event in events if event["ph"] == "X"}
    assert spans == {"main": 0, "prefetch": 0, "sync": 1}


def test_memory_is_bounded_and_the_trace_says_so(tmp_path: Path) -> None:
    tracer_to(tmp_path / "rank3.json", spans_per_thread=2)
    for iteration in range(5):
        with trace.span("compute", iteration):
            pass
    trace.save()
    events, header = read_trace(tmp_path / "rank3.json")
    assert [event["args"]["iteration"] for event in events if event["ph"] == "X"] == [0, 1]
    (note,) = (event for event in events if event["ph"] == "i")
    assert note["name"].startswith("trace full: 3 later spans dropped")
    assert note["ts"] == 3
    assert header["dropped"] == 3


def test_the_file_is_a_chrome_trace(tmp_path: Path) -> None:
    tracer_to(tmp_path / "trace" / "rank3.json", clock_error_ns=2500)
    with trace.span('"quoted"', 1):
        pass
    trace.save()
    document = json.loads((tmp_path / "trace" / "rank3.json").read_text())
    assert document["displayTimeUnit"] == "ms"
    assert document["otherData"] == {
        "format": FORMAT, "rank": 3, "world_size": 5, "clock_error_us": 2.5, "dropped": 0
    }  # fmt: skip
    assert document["traceEvents"] == [
        {"ph": "M", "name": "process_name", "pid": 3, "tid": 0, "args": {"name": "trainer 1 (rank 3, a)"}},
        {"ph": "M", "name": "process_sort_index", "pid": 3, "tid": 0, "args": {"sort_index": 3}},
        {"ph": "M", "name": "thread_name", "pid": 3, "tid": 0, "args": {"name": "main"}},
        {"ph": "X", "cat": "trainer", "name": '"quoted"', "pid": 3, "tid": 0, "ts": 0.0, "dur": 1.0,
         "args": {"iteration": 1}},
    ]  # fmt: skip
    assert list((tmp_path / "trace").iterdir()) == [tmp_path / "trace" / "rank3.json"]


SPAN: Event = {"ph": "X", "name": "get", "pid": 0, "tid": 0, "ts": 1.0, "dur": 2.0, "args": {"iteration": 4}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ph": "Q"}, {"name": 3}, {"pid": "0"}, {"tid": None}, {"ts": "1"}, {"dur": -1}, {"dur": float("nan")},
        {"ts": float("inf")}, {"args": []}, {"args": {"iteration": "4"}}, {"cat": 1}, {"args": {"name": 1}},
    ],
)  # fmt: skip
def test_events_are_validated(tmp_path: Path, wrong: Event) -> None:
    path = tmp_path / "trace.json"
    trace.write_trace(path, [SPAN], {})
    assert read_trace(path) == ([SPAN], {"format": FORMAT})
    document = {"traceEvents": [SPAN, SPAN | wrong], "otherData": {"format": FORMAT}}
    path.write_text(json.dumps(document))  # NaN included, which write_trace refuses
    with pytest.raises(TraceError, match=r"trace.json has the event .*, which no job writes"):
        read_trace(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "does not have the format"),
        (b'{"traceEvents": []}', "does not have the format"),
        (b'{"traceEvents": [], "otherData": {"format": "bagpipe trace 1", "dropped": []}}', "does not have the format"),
        (b'{"traceEvents": 5, "otherData": {"format": "bagpipe trace 1"}}', "has the event 5"),
    ],
)
def test_files_that_are_no_trace(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "trace.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_iterations_are_chosen_as_in_a_slice() -> None:
    assert parse_iterations("3:7") == range(3, 7)
    assert parse_iterations(":7") == range(7)
    assert parse_iterations("3:") == range(3, ALL_ITERATIONS.stop)
    assert parse_iterations(":") == ALL_ITERATIONS


@pytest.mark.parametrize("text", ["", "5", "7:7", "9:3", "-1:4", "a:b", "1:2:3", "1 : 2", "٣:٤"])
def test_other_choices_are_refused(text: str) -> None:
    with pytest.raises(TraceError, match=r"are not A:B with A < B, as in 100:110"):
        parse_iterations(text)
