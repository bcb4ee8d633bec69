"""What one rank did when: a list of spans per thread, written at the end as a Chrome trace. Pure.

A rank has one tracer or none. Its threads find the tracer in their context (`rank_thread.py`), so code in any layer
calls `span`, `record` and `each` without passing it on. If no tracer is installed, that costs a function call. A span
belongs to an iteration: its own, or that of the span around it in the same thread. Times are the host's. For work on a
GPU they show the launch and the wait.

A span takes about 175 bytes in memory, and 135 in the file.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from bagpipe_hpc.bounded_json import dump_line
from bagpipe_hpc.errors import TraceError

ALL_ITERATIONS = range(sys.maxsize)
SPANS_PER_THREAD = 100_000
FORMAT = "bagpipe trace 1"

Event = dict[str, Any]
T = TypeVar("T")

_tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)


def install(tracer: Tracer | None) -> None:
    """Set the tracer of the calling thread and of those that it starts. None turns tracing off."""
    _tracer.set(tracer)


def span(name: str, iteration: int | None = None) -> OpenSpan | NoSpan:
    """Trace a block: `with span("gather", n): ...`. The iteration may be set inside the block, once known."""
    tracer = _tracer.get()
    return _NO_SPAN if tracer is None else OpenSpan(tracer.track(), name, iteration)


def record(name: str, start_ns: int, stop_ns: int, iteration: int | None = None) -> None:
    """Trace work that was already timed with `time.perf_counter_ns`."""
    tracer = _tracer.get()
    if tracer is not None:
        tracer.track().record(name, start_ns, stop_ns, iteration)


def each(name: str, items: Iterable[T], first_iteration: int = 0) -> Iterable[T]:
    """Yield the items, and trace making each as a span. The spans' iterations count up from first_iteration."""
    tracer = _tracer.get()
    return items if tracer is None else _each(tracer, name, iter(items), first_iteration)


def _each(tracer: Tracer, name: str, items: Iterator[T], first_iteration: int) -> Iterator[T]:
    start = tracer.clock()
    for iteration, item in enumerate(items, first_iteration):
        tracer.track().record(name, start, tracer.clock(), iteration)
        yield item
        start = tracer.clock()


def save() -> None:
    """Write what has been traced so far, if there is a tracer."""
    tracer = _tracer.get()
    if tracer is not None:
        tracer.write()


class Tracer:
    """The spans of one rank.

    Args:
        path: The file that `write` makes.
        rank: World rank.
        world_size: Number of ranks of the job.
        role: Role of this rank; the category of its spans.
        name: Title of this rank's tracks.
        iterations: Iterations to trace. Spans outside any iteration are traced, too.
        origin_ns: The clock at time 0 of the trace, which is the same moment on all ranks.
        clock_error_ns: Bound of the error of origin_ns.
        spans_per_thread: How many spans to keep per thread. Further ones are only counted.
        clock: Returns nanoseconds; tests inject their own.
    """

    def __init__(
        self,
        path: Path,
        *,
        rank: int,
        world_size: int,
        role: str,
        name: str,
        iterations: range = ALL_ITERATIONS,
        origin_ns: int = 0,
        clock_error_ns: int = 0,
        spans_per_thread: int = SPANS_PER_THREAD,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.clock = clock
        self._path = path
        self._rank, self._role, self._name = rank, role, name
        self._iterations, self._spans_per_thread = iterations, spans_per_thread
        self._origin_ns = origin_ns
        self._header = {"rank": rank, "world_size": world_size, "clock_error_us": clock_error_ns / 1e3}
        self._tracks: list[_Track] = []
        self._of_thread = threading.local()
        self._main_thread = threading.current_thread()  # the rank's main thread

    def track(self) -> _Track:
        """Return the calling thread's own list."""
        try:
            track: _Track = self._of_thread.track
        except AttributeError:
            thread = threading.current_thread()
            name = "main" if thread is self._main_thread else thread.name
            track = _Track(name, self.clock, self._iterations, self._spans_per_thread)
            self._of_thread.track = track
            self._tracks.append(track)
        return track

    def write(self) -> None:
        """Write the file: a Chrome trace of this rank."""
        tracks = list(self._tracks)  # other threads may still trace
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_trace(self._path, self._events(tracks), self._header | {"dropped": sum(t.num_dropped for t in tracks)})

    def _events(self, tracks: list[_Track]) -> Iterator[Event]:
        yield self._metadata("process_name", 0, name=self._name)
        yield self._metadata("process_sort_index", 0, sort_index=self._rank)
        for tid, track in enumerate(tracks):
            yield self._metadata("thread_name", tid, name=track.name)
            spans = sorted(track.spans, key=lambda span: (span[1], -span[2]))  # a span comes before those inside it
            for name, start, stop, iteration in spans:
                args = {} if iteration is None else {"iteration": iteration}
                yield self._event("X", name, tid, start, dur=(stop - start) / 1e3, args=args)
            if track.num_dropped:
                note = f"trace full: {track.num_dropped:,} later spans dropped; trace less with --trace-iterations A:B"
                yield self._event("i", note, tid, max(span[2] for span in spans), s="t")

    def _event(self, ph: str, name: str, tid: int, ns: int, **fields: Any) -> Event:
        place = {"pid": self._rank, "tid": tid, "ts": (ns - self._origin_ns) / 1e3}
        return {"ph": ph, "cat": self._role, "name": name, **place, **fields}

    def _metadata(self, kind: str, tid: int, **args: Any) -> Event:
        return {"ph": "M", "name": kind, "pid": self._rank, "tid": tid, "args": args}


class _Track:
    """The spans of one thread. Only that thread appends to them, so there is no lock."""

    __slots__ = ("_capacity", "_iterations", "clock", "iteration", "name", "num_dropped", "spans")

    def __init__(self, name: str, clock: Callable[[], int], iterations: range, capacity: int) -> None:
        self.name = name
        self.clock = clock
        self.spans: list[tuple[str, int, int, int | None]] = []  # name, start, stop, iteration
        self.iteration: int | None = None  # iteration of the innermost open span
        self.num_dropped = 0
        self._iterations, self._capacity = iterations, capacity

    def record(self, name: str, start_ns: int, stop_ns: int, iteration: int | None) -> None:
        if iteration is None:
            iteration = self.iteration
        if iteration is not None and iteration not in self._iterations:
            return
        if len(self.spans) < self._capacity:
            self.spans.append((name, start_ns, stop_ns, iteration))
        else:
            self.num_dropped += 1


class OpenSpan:
    """A block that is traced."""

    __slots__ = ("_name", "_outer", "_start", "_track", "iteration")

    def __init__(self, track: _Track, name: str, iteration: int | None) -> None:
        self._track, self._name = track, name
        self._outer = track.iteration
        self.iteration = self._outer if iteration is None else iteration

    def __enter__(self) -> OpenSpan:
        self._track.iteration = self.iteration
        self._start = self._track.clock()
        return self

    def __exit__(self, *exception: object) -> None:
        stop = self._track.clock()
        self._track.iteration = self._outer
        self._track.record(self._name, self._start, stop, self.iteration)


class NoSpan:
    """A block that is not traced."""

    iteration: int | None  # may be set, is never read

    def __enter__(self) -> NoSpan:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


_NO_SPAN = NoSpan()


def write_trace(path: Path, events: Iterable[Event], header: dict[str, Any]) -> None:
    """Write a Chrome trace, one event per line, the header last. A reader never sees an incomplete file."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [')
            separator = "\n"
            for event in events:
                file.write(separator + dump_line(event).rstrip())
                separator = ",\n"
            file.write(f'\n], "otherData": {dump_line({"format": FORMAT} | header).rstrip()}}}\n')
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def read_trace(path: Path) -> tuple[list[Event], dict[str, Any]]:
    """Return the events and the header of a file that `write_trace` made. All fields of events have valid types.

    Raises:
        TraceError: Names the file, what is wrong and what to do.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"trace {path} cannot be read: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"trace {path} is not JSON ({error}); run the job again with --trace") from None
    header = document.get("otherData") if isinstance(document, dict) else None
    if not isinstance(header, dict) or header.get("format") != FORMAT or not _has_numbers(header):
        raise TraceError(f"trace {path} does not have the format {FORMAT!r}; run the job again with --trace")
    events = document.get("traceEvents")
    for event in events if isinstance(events, list) else [events]:
        if not _is_valid(event):
            raise TraceError(f"trace {path} has the event {str(event)[:200]}, which no job writes; run the job again")
    return events, header


_KINDS = {"X": ("ts", "dur"), "M": (), "i": ("ts",), "s": ("ts",), "f": ("ts",)}  # number fields of each kind of event


def _is_valid(event: Any) -> bool:
    if not isinstance(event, dict) or event.get("ph") not in _KINDS or not isinstance(event.get("name"), str):
        return False
    args = event.get("args", {})
    return (
        all(isinstance(event.get(field), int) for field in ("pid", "tid"))
        and all(_is_number(event.get(field)) for field in _KINDS[event["ph"]])
        and event.get("dur", 0) >= 0
        and isinstance(event.get("cat", ""), str)
        and isinstance(args, dict)
        and isinstance(args.get("iteration", 0), int)
        and isinstance(args.get("name", ""), str)
    )


def _has_numbers(header: Event) -> bool:
    return all(_is_number(header.get(field, 0)) for field in ("world_size", "clock_error_us", "dropped"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e15  # False for NaN


def parse_iterations(text: str) -> range:
    """Return the iterations A, A + 1, ..., B - 1 of a text "A:B", in which A or B may be missing.

    Raises:
        TraceError: The text does not have this form, or contains no iteration.
    """
    match = re.fullmatch(r"(\d{0,18}):(\d{0,18})", text, re.ASCII)
    chosen = range(int(match[1] or 0), int(match[2] or ALL_ITERATIONS.stop)) if match else range(0)
    if not chosen:
        raise TraceError(
            f"iterations {text!r} are not A:B with A < B, as in 100:110 for 100 to 109, or :50 for 0 to 49"
        )
    return chosen
