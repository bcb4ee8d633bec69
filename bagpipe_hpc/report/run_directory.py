"""What the run directory of a job holds, also while the job runs or after it was killed.

Other programs may have written these files, so nothing in them is trusted: files are bounded, lines that cannot be read
are counted and left out, and values are used only if they have the right type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bagpipe_hpc.bounded_json import load_json, read_bounded, read_json
from bagpipe_hpc.errors import BagpipeError, RunDirectoryError
from bagpipe_hpc.oracle.recorder import FIGURES_FILE
from bagpipe_hpc.runtime.run_directory import DONE
from bagpipe_hpc.runtime.run_lock import is_held
from bagpipe_hpc.strict_yaml import read_yaml_file
from bagpipe_hpc.timeline.merge import merged_file

MAX_BYTES = 512 << 20
MAX_SUMMARY_BYTES = 64 << 20

Line = dict[str, Any]


class State(StrEnum):
    """How far a job is."""

    DONE = "done"
    RUNNING = "running"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """The content of a run directory. Lines are JSON objects that were read, but not checked.

    Args:
        name: Distinguishes the run from the others of a report.
        path: The run directory.
        state: How far the job is.
        reason: Why it stopped, diverged or failed, if the job itself noted it; empty otherwise.
        metrics: Lines of metrics.jsonl.
        evaluations: Lines of evaluations.jsonl.
        figures: Lines of figures.jsonl.
        summary: The content of summary.json; empty if it does not exist.
        settings: The settings, by their full names.
        has_trace: Whether ranks have written a trace.
        notes: What could not be read, in words.
    """

    name: str
    path: Path
    state: State
    reason: str = ""
    metrics: tuple[Line, ...] = ()
    evaluations: tuple[Line, ...] = ()
    figures: tuple[Line, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    has_trace: bool = False
    notes: tuple[str, ...] = ()


def number_in(line: Mapping[str, Any], name: str) -> float | None:
    """Return a field of a line if it is a number."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_run(path: Path, name: str = "") -> Run:
    """Read a run directory.

    Args:
        path: The run directory.
        name: Distinguishes the run from others; empty: the name of the directory.
    Raises:
        RunDirectoryError: the directory does not exist, or no job has written into it.
    Communication: none.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"{path} is not a directory; give the --run-dir of a job")
    notes: list[str] = []
    figures = _lines(path / FIGURES_FILE, notes)
    metrics = _lines(path / "metrics.jsonl", notes)
    summary = _summary(path / "summary.json", notes)
    has_trace = merged_file(path).is_file() or any(path.glob("trace/rank*.json"))
    settings = _settings(path / "config.yaml", notes)
    if not (figures or metrics or summary or has_trace or settings):
        raise RunDirectoryError(f"{path} has no files of a job; give the --run-dir of a job that trains or has trained")
    state, reason = _state(path, figures)
    return Run(
        name=name or path.resolve().name,
        path=path,
        state=state,
        reason=reason,
        metrics=tuple(metrics),
        evaluations=tuple(_lines(path / "evaluations.jsonl", notes)),
        figures=tuple(figures),
        summary=summary,
        settings=settings,
        has_trace=has_trace,
        notes=tuple(notes),
    )


def names_of(paths: list[Path]) -> list[str]:
    """Return a short name for each path: its last part, or as many parts as distinguish it from the others."""
    whole = [path.resolve().parts for path in paths]
    names = []
    for parts in whole:
        others = [other for other in whole if other != parts]
        length = next(n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others))
        names.append("/".join(parts[-length:]))
    return names


def _state(path: Path, figures: list[Line]) -> tuple[State, str]:
    """Return how far the job is, and why it ended early."""
    last = next((line for line in reversed(figures) if line.get("kind") in ("start", "end")), {})
    has_ended = last.get("kind") == "end"
    if not has_ended and is_held(path):
        return State.RUNNING, ""
    if (path / DONE).exists():
        return State.DONE, ""
    if has_ended and last.get("outcome") in (State.STOPPED, State.DIVERGED, State.FAILED):
        return State(str(last["outcome"])), str(last.get("reason", ""))
    return (State.RUNNING if is_held(path) else State.FAILED), ""


def _lines(path: Path, notes: list[str]) -> list[Line]:
    if not path.exists():
        return []
    try:
        content = read_bounded(path, max_bytes=MAX_BYTES, error=RunDirectoryError, mend="the report goes without it")
    except BagpipeError as error:
        notes.append(str(error))
        return []
    complete = content[: content.rfind(b"\n") + 1]  # the job may be writing the last line now
    lines, num_bad = [], 0
    for line in complete.splitlines():
        try:
            tree = load_json(line)
        except ValueError:
            tree = None
        if isinstance(tree, dict):
            lines.append(tree)
        else:
            num_bad += 1
    if num_bad:
        notes.append(f"{path.name}: {num_bad:,} lines cannot be read and are left out")
    return lines


def _summary(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        tree = read_json(
            path, max_bytes=MAX_SUMMARY_BYTES, error=RunDirectoryError, mend="the report goes without the summary"
        )
    except BagpipeError as error:
        notes.append(str(error))
        return {}
    return tree if isinstance(tree, dict) else {}


def _settings(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(_flat(read_yaml_file(path, "settings").value))
    except BagpipeError as error:
        notes.append(str(error))
        return {}


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a tree by their full names."""
    if isinstance(tree, dict) and (tree or not prefix):
        for name, value in tree.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree
