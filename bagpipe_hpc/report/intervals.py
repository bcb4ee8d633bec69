"""The lines of figures.jsonl as intervals: what all trainers did from one line to the next. Pure.

The counts in the lines grow from the start of the job. An interval holds the differences between two lines of each
trainer. When a job went on from a checkpoint, the lines behind that checkpoint are dropped: that work is repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bagpipe_hpc.report.run_directory import Line, number_in

COUNTS = (
    "seconds",
    "iterations",
    "samples",
    "rows_fetched",
    "rows_written_back",
    "rows_pushed",
    "bytes_fetched",
    "bytes_written_back",
    "bytes_exchanged",
    "bytes_dense",
)
TIMES = ("seconds_by_cause", "delayed_seconds_by_cause")


@dataclass
class Interval:
    """What the trainers did between two lines of one start.

    Args:
        start: The number of the start, from 0.
        iteration: Training iterations of the whole job at its end.
        time: Its end, in seconds since 1970.
        counts: By trainer, the differences of COUNTS.
        causes, delayed: By trainer, the seconds by cause.
        rows_by_server: By server, the rows that all trainers fetched.
    """

    start: int
    iteration: int
    time: float
    counts: dict[int, dict[str, float]] = field(default_factory=dict)
    causes: dict[int, dict[str, float]] = field(default_factory=dict)
    delayed: dict[int, dict[str, float]] = field(default_factory=dict)
    rows_by_server: list[float] = field(default_factory=list)

    @property
    def num_iterations(self) -> float:
        """Its training iterations."""
        return max((counts["iterations"] for counts in self.counts.values()), default=0.0)

    def total(self, name: str) -> float:
        """Return one of COUNTS of all trainers."""
        return sum(counts[name] for counts in self.counts.values())


def current_lines(figures: Sequence[Line]) -> list[tuple[int, Line]]:
    """Return the lines that still count, each with the number of its start.

    A start drops the lines of earlier starts behind the iteration where it begins, but for those of starts and ends.
    """
    kept: list[tuple[int, Line]] = []
    start = -1
    for line in figures:
        if line.get("kind") == "start":
            start += 1
            begin = number_in(line, "iteration") or 0.0
            kept = [each for each in kept if _stays(each[1], begin)]
        kept.append((max(start, 0), line))
    return kept


def _stays(line: Line, begin: float) -> bool:
    iteration = number_in(line, "iteration")
    return line.get("kind") in ("start", "end") or iteration is None or iteration <= begin


def intervals_of(lines: Iterable[tuple[int, Line]]) -> list[Interval]:
    """Return the intervals in order.

    Args:
        lines: As `current_lines` returns them.
    """
    found: dict[tuple[int, int], Interval] = {}
    before: defaultdict[tuple[int, int], Line] = defaultdict(dict)
    for start, line in lines:
        iteration, trainer, time = (number_in(line, name) for name in ("iteration", "trainer", "time"))
        if line.get("kind") != "trainer" or iteration is None or trainer is None or time is None:
            continue
        interval = found.setdefault((start, int(iteration)), Interval(start, int(iteration), time))
        earlier, who = before[start, int(trainer)], int(trainer)
        interval.time = max(interval.time, time)
        interval.counts[who] = {name: (number_in(line, name) or 0) - (number_in(earlier, name) or 0) for name in COUNTS}
        interval.causes[who] = _differences(line, earlier, TIMES[0])
        interval.delayed[who] = _differences(line, earlier, TIMES[1])
        _add_servers(interval, line, earlier)
        before[start, int(trainer)] = line
    return [interval for interval in found.values() if interval.num_iterations > 0]


def _differences(line: Line, earlier: Line, name: str) -> dict[str, float]:
    now, then = _object(line, name), _object(earlier, name)
    return {str(cause): (number_in(now, cause) or 0.0) - (number_in(then, cause) or 0.0) for cause in now}


def _add_servers(interval: Interval, line: Line, earlier: Line) -> None:
    now, then = line.get("rows_by_server"), earlier.get("rows_by_server")
    if not isinstance(now, list):
        return
    then = then if isinstance(then, list) and len(then) == len(now) else [0] * len(now)
    rows = [float(b) - float(a) if isinstance(b, int) and isinstance(a, int) else 0.0 for a, b in zip(then, now)]  # noqa: B905
    held = interval.rows_by_server or [0.0] * len(rows)
    interval.rows_by_server = [a + b for a, b in zip(held, rows, strict=False)]


def _object(line: Line, name: str) -> Mapping[str, Any]:
    value = line.get(name)
    return value if isinstance(value, dict) else {}
