"""What one rank did when: spans on a list per thread, written at the end as a Chrome trace. Pure.

A rank has one tracer or none. Its threads find it in their context (`rank_thread.py`), so code of any layer calls
`span`, `record` and `each` without a parameter; while no tracer is installed, that costs a function call. A span
belongs to an iteration: its own, or that of the span around it in the same thread. Times are the host's: of work on a
GPU they show the launch and the wait.

In memory a span takes about 175 bytes, in the file 135.
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
    """Make a tracer that of the calling thread and of those that it starts; None turns tracing off."""
    _tracer.set(tracer)


def span(name: str, iteration: int | None = None) -> OpenSpan | NoSpan:
    """Trace a block: `with span("gather", n): ...`. Its iteration may be set inside the block, once known."""
    tracer = _tracer.get()
    return _NO_SPAN if tracer is None else OpenSpan(tracer.track(), name, iteration)


def record(name: str, start_ns: int, stop_ns: int, iteration: int | None = None) -> None:
    """Trace what has been timed already, by `time.perf_counter_ns`."""
    tracer = _tracer.get()
    if tracer is not None:
        tracer.track().record(name, start_ns, stop_ns, iteration)


def each(name: str, items: Iterable[T], first_iteration: int = 0) -> Iterable[T]:
    """The same items; making each is traced as a span of its iteration, which they count up from the first."""
    tracer = _tracer.get()
    return items if tracer is None else _each(tracer, name, iter(items), first_iteration)


def _each(tracer: Tracer, name: str, items: Iterator[T], first_iteration: int) -> Iterator[T]:
    start = tracer.clock()
    for iteration, item in enumerate(items, first_iteration):
        tracer.track().record(name, start, tracer.clock(), iteration)
        yield item
        start = tracer.clock()


def save() -> None:
    """Write down what has been traced so far, if anything is."""
    tracer = _tracer.get()
    if tracer is not None:
        tracer.write()


class Tracer:
    """The spans of one rank.

    Args:
        path: File that `write` makes.
        rank: World rank.
        world_size: Ranks of the job.
        role: Role of this rank; its spans' category.
        name: Title of this rank's tracks.
        iterations: Spans of other iterations are left out; spans outside iterations stay.
        origin_ns: What clock reads at time 0 of the trace, which is the same moment on all ranks.
        clock_error_ns: Bound of the error of origin_ns.
        spans_per_thread: Further ones are counted and left out.
        clock: Nanoseconds; injected by tests.
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
        self._main_thread = threading.current_thread()  # of the rank

    def track(self) -> _Track:
        """The calling thread's own list."""
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
        """Write the file: a Chrome trace of this rank alone."""
        tracks = list(self._tracks)  # other threads may go on
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_trace(self._path, self._events(tracks), self._header | {"dropped": sum(t.num_dropped for t in tracks)})

    def _events(self, tracks: list[_Track]) -> Iterator[Event]:
        yield self._metadata("process_name", 0, name=self._name)
        yield self._metadata("process_sort_index", 0, sort_index=self._rank)
        for tid, track in enumerate(tracks):
            yield self._metadata("thread_name", tid, name=track.name)
            spans = sorted(track.spans, key=lambda span: (span[1], -span[2]))  # a span before those inside it
            for name, start, stop, iteration in spans:
                args = {} if iteration is None else {"iteration": iteration}
                yield self._event("X", name, tid, start, dur=(stop - start) / 1e3, args=args)
            if track.num_dropped:
                note = f"trace full: {track.num_dropped:,} later spans dropped; trace fewer with --trace-iterations A:B"
                yield self._event("i", note, tid, max(span[2] for span in spans), s="t")

    def _event(self, ph: str, name: str, tid: int, ns: int, **fields: Any) -> Event:
        place = {"pid": self._rank, "tid": tid, "ts": (ns - self._origin_ns) / 1e3}
        return {"ph": ph, "cat": self._role, "name": name, **place, **fields}

    def _metadata(self, kind: str, tid: int, **args: Any) -> Event:
        return {"ph": "M", "name": kind, "pid": self._rank, "tid": tid, "args": args}


class _Track:
    """The spans of one thread; only that thread appends, so there is nothing to lock."""

    __slots__ = ("_capacity", "_iterations", "clock", "iteration", "name", "num_dropped", "spans")

    def __init__(self, name: str, clock: Callable[[], int], iterations: range, capacity: int) -> None:
        self.name = name
        self.clock = clock
        self.spans: list[tuple[str, int, int, int | None]] = []  # name, start, stop, iteration
        self.iteration: int | None = None  # of the innermost open span
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
    """A block being traced."""

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
    """A block not traced."""

    iteration: int | None  # may be set, is never read

    def __enter__(self) -> NoSpan:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


_NO_SPAN = NoSpan()


def write_trace(path: Path, events: Iterable[Event], header: dict[str, Any]) -> None:
    """Write a Chrome trace, one event a line, the header last; a reader never sees half of it."""
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
    """Events and header of a file that `write_trace` made; every event's fields have the types they must.

    Raises:
        TraceError: names the file, what is wrong and what mends it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"trace {path} cannot be read: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"trace {path} is not JSON ({error}); run the job again with --trace") from None
    header = document.get("otherData") if isinstance(document, dict) else None
    if not isinstance(header, dict) or header.get("format") != FORMAT or not _has_numbers(header):
        raise TraceError(f"trace {path} is not of the format {FORMAT!r}; run the job again with --trace")
    events = document.get("traceEvents")
    for event in events if isinstance(events, list) else [events]:
        if not _is_valid(event):
            raise TraceError(f"trace {path} has the event {str(event)[:200]}, which no job writes; run the job again")
    return events, header


_KINDS = {"X": ("ts", "dur"), "M": (), "i": ("ts",), "s": ("ts",), "f": ("ts",)}  # numbers that each must have


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
    return isinstance(value, (int, float)) and abs(value) < 1e15  # which NaN is not


def parse_iterations(text: str) -> range:
    """The iterations A, A + 1, ..., B - 1 of "A:B"; either may be left out.

    Raises:
        TraceError: the text is not of this form, or no iteration is left.
    """
    match = re.fullmatch(r"(\d{0,18}):(\d{0,18})", text, re.ASCII)
    chosen = range(int(match[1] or 0), int(match[2] or ALL_ITERATIONS.stop)) if match else range(0)
    if not chosen:
        raise TraceError(
            f"iterations {text!r} are not A:B with A < B, as in 100:110 for 100 to 109, or :50 for 0 to 49"
        )
    return chosen
