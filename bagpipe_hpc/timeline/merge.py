"""The traces of all ranks in one file, with arrows from cause to effect.

In each iteration an arrow leads from a span of one name to a span of another:

    plan    send     oracle  ->  receive plan  every server and trainer
    rows    gather   server  ->  get           every trainer
    use     get      trainer ->  compute       the same trainer

An arrow is a pair of flow events, one just after the start of its first span, one just before the end of its last. So
it points forward in time, and both ends lie inside their spans.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.trace import Event, read_trace, write_trace

# Name of the arrow, name of the span where it begins, name of the span where it ends, whether only within one rank.
ARROWS = (
    ("plan", "send", "receive plan", False),
    ("rows", "gather", "get", False),
    ("use", "get", "compute", True),
)
_ENDS = {name for _, source, target, _ in ARROWS for name in (source, target)}
_NANOSECOND = 1e-3

_Ends = dict[tuple[str, int], dict[int, Event]]  # (name, iteration) -> rank -> its first such span


def rank_file(run_path: Path, rank: int) -> Path:
    """Return the file in which a rank writes its own trace."""
    return run_path / "trace" / f"rank{rank}.json"


def merged_file(run_path: Path) -> Path:
    """Return the file with the trace of all ranks."""
    return run_path / "trace.json"


def delete_traces(run_path: Path) -> None:
    """Delete the traces of an earlier run, so that they are not taken for those of this run."""
    for path in (merged_file(run_path), *_rank_files(run_path)):
        path.unlink(missing_ok=True)


def find_trace(run_path: Path) -> Path:
    """Return the merged trace of a run. If the run failed, merge the traces of the ranks that wrote one.

    Raises:
        TraceError: The run has no trace.
    """
    return merged_file(run_path) if merged_file(run_path).exists() else merge_traces(run_path)


def merge_traces(run_path: Path) -> Path:
    """Merge the ranks' files into the trace of the run. Holds one of them in memory at a time.

    Raises:
        TraceError: There is no file, or one is not a trace.
    """
    paths = _rank_files(run_path)
    if not paths:
        raise TraceError(f"{run_path} has no trace: run the job with `bagpipe train --trace`, then report on its run")
    header: dict[str, Any] = {"ranks": [], "world_size": 0, "clock_error_us": 0.0, "dropped": 0}
    write_trace(merged_file(run_path), _merged_events(paths, header), header)
    return merged_file(run_path)


def _rank_files(run_path: Path) -> list[Path]:
    return sorted(run_path.glob("trace/rank*.json"), key=lambda path: (len(path.name), path.name))


def _merged_events(paths: list[Path], header: dict[str, Any]) -> Iterator[Event]:
    ends: _Ends = {}
    for path in paths:
        events, rank_header = read_trace(path)
        header["ranks"].append(rank_header.get("rank"))
        for bound in ("world_size", "clock_error_us"):
            header[bound] = max(header[bound], rank_header.get(bound, 0))
        header["dropped"] += rank_header.get("dropped", 0)
        yield from events
        for event in events:
            iteration = event.get("args", {}).get("iteration")
            if iteration is not None and event["name"] in _ENDS:
                ends.setdefault((event["name"], iteration), {}).setdefault(event["pid"], event)
    yield from _arrows(ends)


def _arrows(ends: _Ends) -> Iterator[Event]:
    number = 0
    for arrow, source_name, target_name, within_rank in ARROWS:
        for name, iteration in list(ends):
            if name != source_name:
                continue
            for source in ends[name, iteration].values():
                for target in ends.get((target_name, iteration), {}).values():
                    if within_rank == (source["pid"] == target["pid"]):
                        yield from _arrow(arrow, number, iteration, source, target)
                        number += 1


def _arrow(name: str, number: int, iteration: int, source: Event, target: Event) -> Iterator[Event]:
    start = source["ts"] + min(_NANOSECOND, source["dur"] / 2)
    stop = target["ts"] + target["dur"] - min(_NANOSECOND, target["dur"] / 2)
    if start < stop:  # clocks of different hosts may differ by more than the time between the two events
        common = {"cat": "arrow", "name": name, "id": number, "args": {"iteration": iteration}}
        yield {"ph": "s", **common, "pid": source["pid"], "tid": source["tid"], "ts": round(start, 4)}
        yield {"ph": "f", "bp": "e", **common, "pid": target["pid"], "tid": target["tid"], "ts": round(stop, 4)}
