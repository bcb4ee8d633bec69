"""A trace as tracks of spans, for tables and pictures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.trace import ALL_ITERATIONS, Event, read_trace

ITERATION = "iteration"  # the span of everything that a trainer does in one training iteration


class Span(NamedTuple):
    """One activity.

    Args:
        start, stop: Times in milliseconds.
        iteration: The iteration; None outside iterations.
    """

    name: str
    start: float
    stop: float
    iteration: int | None


@dataclass
class Track:
    """A thread of a rank: its spans, ordered by start, an outer span before those inside it.

    Args:
        process: Title of the rank.
        thread: Name of the thread.
        role: Role of the rank.
    """

    process: str
    thread: str
    role: str
    spans: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class Timeline:
    """The tracks of a run, ordered by rank.

    Args:
        tracks: Tracks of the threads that have spans.
        iterations: Training iterations that were traced, ascending.
        missing_ranks: Ranks that wrote no trace.
        num_dropped: Spans that the tracers did not keep because there were too many.
        clock_error: Bound of the difference between the hosts' clocks, in milliseconds.
    """

    tracks: list[Track]
    iterations: list[int]
    missing_ranks: list[int]
    num_dropped: int
    clock_error: float

    def choose(self, wanted: range = ALL_ITERATIONS) -> range:
        """Return those of the wanted iterations that were traced.

        Raises:
            TraceError: None of them was traced.
        """
        found = [iteration for iteration in self.iterations if iteration in wanted]
        if found:
            return range(found[0], found[-1] + 1)
        traced = f"{self.iterations[0]}:{self.iterations[-1] + 1}" if self.iterations else "no training iteration"
        stop = "" if wanted.stop == ALL_ITERATIONS.stop else wanted.stop
        raise TraceError(f"--iterations {wanted.start}:{stop} chooses none: the trace has {traced}")

    def middle(self, count: int) -> range:
        """Return `count` training iterations in the middle of the traced ones, or all if there are fewer.

        The range may also contain numbers of evaluation iterations between them.
        """
        self.choose()
        first = max(0, len(self.iterations) - count) // 2
        chosen = self.iterations[first : first + count]
        return range(chosen[0], chosen[-1] + 1)

    def interval(self, iterations: range) -> tuple[float, float]:
        """Return the time from the first trainer's start of the first to the last trainer's end of the last, in ms."""
        spans = [span for track in self.tracks for span in track.spans if is_training(span, iterations)]
        return min(span.start for span in spans), max(span.stop for span in spans)


def is_training(span: Span, iterations: range) -> bool:
    """Return whether a span is a trainer's whole iteration, and one of these."""
    return span.name == ITERATION and span.iteration in iterations


def read_timeline(path: Path) -> Timeline:
    """Read a merged trace.

    Raises:
        TraceError: The file is not a merged trace.
    """
    events, header = read_trace(path)
    ranks, world_size = header.get("ranks"), header.get("world_size")
    if not isinstance(world_size, int) or not isinstance(ranks, list) or not all(isinstance(r, int) for r in ranks):
        raise TraceError(f"trace {path} is not a merged trace; delete it, and bagpipe report makes it again")
    tracks = _tracks(events)
    training = {span.iteration for track in tracks for span in track.spans if is_training(span, ALL_ITERATIONS)}
    return Timeline(
        tracks=tracks,
        iterations=sorted(iteration for iteration in training if iteration is not None),
        missing_ranks=sorted(set(range(world_size)) - set(ranks)),
        num_dropped=int(header.get("dropped", 0)),
        clock_error=float(header.get("clock_error_us", 0.0)) / 1e3,
    )


def _tracks(events: list[Event]) -> list[Track]:
    processes: dict[int, str] = {}
    threads: dict[tuple[int, int], str] = {}
    spans: defaultdict[tuple[int, int], list[Span]] = defaultdict(list)
    roles: dict[int, str] = {}
    for event in events:
        pid, tid, args = event["pid"], event["tid"], event.get("args", {})
        if event["name"] == "process_name":
            processes[pid] = args.get("name", "")
        elif event["name"] == "thread_name":
            threads[pid, tid] = args.get("name", "")
        elif event["ph"] == "X":
            start, duration = event["ts"] / 1e3, event["dur"] / 1e3
            roles[pid] = event.get("cat", "")
            spans[pid, tid].append(Span(event["name"], start, start + duration, args.get("iteration")))
    return [
        Track(
            processes.get(pid, f"rank {pid}"),
            threads.get((pid, tid), f"thread {tid}"),
            roles[pid],
            sorted(found, key=lambda span: (span.start, -span.stop)),
        )
        for (pid, tid), found in sorted(spans.items())
    ]
