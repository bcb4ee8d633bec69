"""The tables behind the pictures of one run: rows of plain values. Pure.

Each row is a dictionary with the `run`, and most have the `iteration` and the `minutes` since the job began (None if
the run directory does not say).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bagpipe_hpc.oracle.metrics import METRIC_NAMES
from bagpipe_hpc.oracle.summary import CAUSES, DELAYED_CAUSES, imbalance
from bagpipe_hpc.report.intervals import Interval, current_lines, intervals_of
from bagpipe_hpc.report.run_directory import Run, number_in
from bagpipe_hpc.report.thinning import kept_positions

Row = dict[str, Any]

CAUSE_NAMES = {**CAUSES, **DELAYED_CAUSES}
MAX_MARKS = 30  # of a kind
POINTS_OF_LINES = 4000  # of all lines of a chart with a line per rank
REST = "rest"  # of an iteration, in no cause
PATHS = {
    "bytes_fetched": "servers to trainers",
    "bytes_written_back": "trainers to servers",
    "bytes_exchanged": "trainers to trainers",
    "bytes_dense": "dense gradients",
    "bytes_plans": "plans of the oracle",
}
MOVES = {"rows_fetched": "fetched", "rows_written_back": "written back", "rows_pushed": "pushed"}


@dataclass(frozen=True)
class RunFigures:
    """The tables of one run.

    Args:
        run: The run.
    """

    run: Run

    @cached_property
    def _lines(self) -> list[tuple[int, Row]]:
        return current_lines(self.run.figures)

    @cached_property
    def intervals(self) -> list[Interval]:
        """What the trainers did, interval by interval."""
        return intervals_of(self._lines)

    @cached_property
    def _clock(self) -> tuple[list[float], list[float]]:
        """Known pairs of iterations and times, ascending."""
        pairs: dict[float, float] = {}
        for kind in ("start", "oracle", "trainer", "end"):
            for line in self._of_kind(kind):
                iteration, time = number_in(line, "iteration"), number_in(line, "time")
                if iteration is not None and time is not None:
                    pairs.setdefault(iteration, time)
        iterations = sorted(pairs)
        return iterations, [pairs[iteration] for iteration in iterations]

    def _of_kind(self, kind: str) -> list[Row]:
        return [line for _, line in self._lines if line.get("kind") == kind]

    def minutes(self, iteration: float) -> float | None:
        """Return the minutes from the first start to an iteration, from the times of the nearest lines."""
        iterations, times = self._clock
        if len(iterations) < 2:
            return None
        after = min(max(bisect_left(iterations, iteration), 1), len(iterations) - 1)
        before = after - 1
        share = (iteration - iterations[before]) / (iterations[after] - iterations[before])
        time = times[before] + min(max(share, 0.0), 1.0) * (times[after] - times[before])
        return round((time - times[0]) / 60, 4)

    def _at(self, iteration: float) -> Row:
        return {"run": self.run.name, "iteration": int(iteration), "minutes": self.minutes(iteration)}

    # --- quality

    def curve(self, name: str) -> list[Row]:
        """Return a curve of metrics.jsonl: `loss` or `samples_per_second`."""
        points = [(number_in(line, "iteration"), number_in(line, name)) for line in self.run.metrics]
        known = [(iteration, value) for iteration, value in points if iteration is not None and value is not None]
        kept = kept_positions([value for _, value in known])
        return [{**self._at(known[place][0]), "value": known[place][1]} for place in kept]

    @property
    def num_points(self) -> int:
        """The number of points of the curves before they are thinned."""
        return len(self.run.metrics)

    def evaluations(self) -> list[Row]:
        """Return the metrics of evaluations, one row per metric."""
        rows = []
        for line in self.run.evaluations:
            iteration = number_in(line, "iteration")
            for name, shown in METRIC_NAMES.items():
                if iteration is not None and (value := number_in(line, name)) is not None:
                    rows.append({**self._at(iteration), "metric": shown, "value": value})
        return rows

    # --- time

    def causes(self, *, overlapped: bool = False) -> list[Row]:
        """Return the mean milliseconds of an iteration of a trainer by cause, interval by interval.

        Args:
            overlapped: The work that overlaps with computing, not the time of the iteration itself.
        """
        intervals = self._thinned(lambda interval: interval.total("seconds") / interval.total("iterations"))
        rows = []
        for interval in intervals:
            times = _times(interval, overlapped=overlapped)
            rows += [{**self._at(interval.iteration), "cause": name, "ms": value} for name, value in times.items()]
        return rows

    def mean_causes(self) -> list[Row]:
        """Return the mean milliseconds of an iteration of a trainer by cause, of the whole run."""
        summed = self.run.summary.get("milliseconds_per_iteration")
        if isinstance(summed, dict):
            times = {CAUSE_NAMES.get(cause, cause): number_in(summed, cause) or 0.0 for cause in summed}
            known = {name: ms for name, ms in times.items() if ms}
        else:
            known = {}
            num_iterations = sum(interval.total("iterations") for interval in self.intervals)
            for interval in self.intervals:
                for name, ms in _times(interval).items():
                    known[name] = known.get(name, 0.0) + ms * interval.total("iterations") / num_iterations
        return [{"run": self.run.name, "cause": name, "ms": ms} for name, ms in known.items() if name != REST]

    def _thinned(self, value: Callable[[Interval], float]) -> list[Interval]:
        return [self.intervals[place] for place in kept_positions([value(each) for each in self.intervals])]

    # --- rows, bytes, memory

    def moves(self) -> list[Row]:
        """Return the rows that all trainers moved per iteration, interval by interval."""
        intervals = self._thinned(lambda interval: interval.total("rows_fetched") / interval.num_iterations)
        return [
            {**self._at(each.iteration), "move": shown, "rows": each.total(name) / each.num_iterations}
            for each in intervals
            for name, shown in MOVES.items()
        ]

    def mean_moves(self) -> list[Row]:
        """Return the rows that all trainers moved per iteration, of the whole run."""
        totals = self.totals()
        return [
            {"run": self.run.name, "move": shown, "rows": totals[name] / totals["iterations"]}
            for name, shown in MOVES.items()
            if totals.get("iterations")
        ]

    def totals(self) -> dict[str, float]:
        """Return the counts of all trainers of the latest start, and its training iterations."""
        names = (*MOVES, *PATHS, "samples")
        summary = self.run.summary
        if (end := number_in(summary, "iterations")) is not None:
            first = number_in(summary, "first_iteration") or 0.0
            return {**{name: number_in(summary, name) or 0.0 for name in names}, "iterations": end - first}
        latest = [each for each in self.intervals if each.start == self.intervals[-1].start]
        plans = [number_in(line, "bytes_plans") or 0.0 for line in self._of_kind("oracle")]
        counted = {name: sum(each.total(name) for each in latest) for name in names if name != "bytes_plans"}
        return {
            **counted,
            "bytes_plans": plans[-1] if plans else 0.0,
            "iterations": sum(each.num_iterations for each in latest),
        }

    def paths(self) -> list[Row]:
        """Return the bytes per iteration by their path."""
        totals = self.totals()
        return [
            {"run": self.run.name, "path": shown, "bytes": totals[name] / totals["iterations"]}
            for name, shown in PATHS.items()
            if totals.get("iterations")
        ]

    def cached_rows(self) -> list[Row]:
        """Return the rows in the cache of each trainer."""
        lines = [line for line in self._of_kind("oracle") if isinstance(line.get("cached_rows"), list)]
        most = max((len(line["cached_rows"]) for line in lines), default=1)
        kept = kept_positions([sum(_numbers(line["cached_rows"])) for line in lines], _points_per_line(most))
        return [
            {**self._at(number_in(lines[place], "iteration") or 0.0), "trainer": f"trainer {trainer}", "rows": rows}
            for place in kept
            for trainer, rows in enumerate(_numbers(lines[place]["cached_rows"]))
        ]

    @property
    def cache_limit(self) -> float | None:
        """Slots of the cache of each trainer."""
        starts = self._of_kind("start")
        return number_in(starts[-1], "cache_rows") if starts else None

    def memory(self) -> list[Row]:
        """Return the memory of each rank in bytes: of the host, and of its device if that has its own."""
        return self._memory

    @cached_property
    def _memory(self) -> list[Row]:
        iterations, times = self._clock
        rows: list[Row] = []
        by_rank: dict[str, list[Row]] = {}
        for kind in ("oracle", "server", "trainer"):
            for line in self._of_kind(kind):
                time = number_in(line, "time")
                if time is None or len(iterations) < 2:
                    continue
                name = kind if kind == "oracle" else f"{kind} {int(number_in(line, kind) or 0)}"
                iteration = number_in(line, "iteration")
                place = _interpolated(time, times, iterations) if iteration is None else iteration
                for field, suffix in (("memory_bytes", ""), ("device_bytes", ", device")):
                    if value := number_in(line, field):
                        point = {**self._at(place), "rank": name + suffix, "role": kind, "bytes": value}
                        by_rank.setdefault(name + suffix, []).append(point)
        for points in by_rank.values():
            kept = kept_positions([point["bytes"] for point in points], _points_per_line(len(by_rank)))
            rows += [points[place] for place in kept]
        return rows

    def peak_memory(self) -> list[Row]:
        """Return the largest memory of each rank that was seen, in bytes."""
        peaks: dict[str, float] = {}
        for row in self.memory():
            peaks[row["rank"]] = max(row["bytes"], peaks.get(row["rank"], 0.0))
        return [{"run": self.run.name, "rank": rank, "bytes": value} for rank, value in peaks.items()]

    def balance(self) -> list[Row]:
        """Return how much each trainer and each server has to do, relative to the mean of its role."""
        if not self.intervals:
            return []
        latest = [each for each in self.intervals if each.start == self.intervals[-1].start]
        rows = []
        for name, shown in {"rows_fetched": "rows fetched", "rows_pushed": "rows pushed", "samples": "samples"}.items():
            by_trainer = _summed([{str(who): counts[name] for who, counts in each.counts.items()} for each in latest])
            rows += self._shares(shown, {f"trainer {who}": value for who, value in by_trainer.items()})
        waits = [{str(who): _waiting(causes) for who, causes in each.causes.items()} for each in latest]
        rows += self._shares("time waited", {f"trainer {who}": value for who, value in _summed(waits).items()})
        served = _summed([{str(who): value for who, value in enumerate(each.rows_by_server)} for each in latest])
        return rows + self._shares("rows served", {f"server {who}": value for who, value in served.items()})

    def _shares(self, what: str, values: Mapping[str, float]) -> list[Row]:
        mean = sum(values.values()) / len(values) if values else 0.0
        if len(values) < 2 or not mean:
            return []
        worst = imbalance([round(value * 1e6) for value in values.values()])
        return [
            {"run": self.run.name, "what": what, "rank": rank, "share": value / mean, "value": value, "worst": worst}
            for rank, value in values.items()
        ]

    # --- what happened

    def checkpoints(self) -> list[Row]:
        """Return the committed checkpoints."""
        return [
            {
                **self._at(number_in(line, "iteration") or 0.0),
                "kind": "full" if line.get("is_full") else "increment",
                **{name: number_in(line, name) or 0.0 for name in ("seconds", "stall_seconds", "bytes_written")},
            }
            for line in self._of_kind("checkpoint")
        ]

    def marks(self) -> list[Row]:
        """Return checkpoints, evaluations and restarts, but for kinds of which there are too many to mark."""
        return [
            {**self._at(iteration), "mark": kind}
            for kind, iterations in self._events().items()
            if len(iterations) <= MAX_MARKS
            for iteration in iterations
        ]

    def unmarked(self) -> list[str]:
        """Return the kinds of which there are too many to mark."""
        return [kind for kind, iterations in self._events().items() if len(iterations) > MAX_MARKS]

    def _events(self) -> dict[str, list[float]]:
        found = {
            "checkpoint": [row["iteration"] for row in self.checkpoints()],
            "evaluation": [number_in(line, "iteration") for line in self.run.evaluations],
            "restart": [number_in(line, "iteration") for line in self._of_kind("start")[1:]],
        }
        return {kind: sorted({each for each in some if each is not None}) for kind, some in found.items()}


def _times(interval: Interval, *, overlapped: bool = False) -> dict[str, float]:
    """Return the mean milliseconds of an iteration of a trainer by the name of the cause."""
    num_iterations = interval.total("iterations")
    summed = _summed(list((interval.delayed if overlapped else interval.causes).values()))
    times = {CAUSE_NAMES.get(cause, cause): 1e3 * seconds / num_iterations for cause, seconds in summed.items()}
    known = {name: ms for name, ms in times.items() if ms > 0}
    if not overlapped:
        known[REST] = max(0.0, 1e3 * interval.total("seconds") / num_iterations - sum(known.values()))
    return known


def _points_per_line(num_lines: int) -> int:
    return max(10, POINTS_OF_LINES // num_lines)


def _waiting(causes: Mapping[str, float]) -> float:
    return sum(seconds for cause, seconds in causes.items() if cause.endswith("_wait"))


def _summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) if isinstance(value, int | float) else 0.0 for value in values]


def _interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the value of a piecewise linear function at x; xs ascend."""
    after = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    width = xs[after] - xs[after - 1]
    share = (x - xs[after - 1]) / width if width else 0.0
    return ys[after - 1] + min(max(share, 0.0), 1.0) * (ys[after] - ys[after - 1])
