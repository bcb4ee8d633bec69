"""The few figures that say most about a run, as text. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bagpipe_hpc.oracle.metrics import METRIC_NAMES
from bagpipe_hpc.oracle.summary import CAUSES
from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.run_directory import number_in


@dataclass(frozen=True)
class KeyFigure:
    """A figure with its name, and what explains it."""

    name: str
    value: str
    note: str = ""


def key_figures(figures: RunFigures) -> list[KeyFigure]:
    """Return the figures that are known."""
    found = [
        _iterations(figures),
        _speed(figures),
        _time(figures),
        _waiting(figures),
        _loss(figures),
        _quality(figures),
        _rows(figures),
        _memory(figures),
        _checkpoints(figures),
        _energy(figures),
    ]
    return [figure for figure in found if figure is not None]


def bytes_in_words(number: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:,.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _iterations(figures: RunFigures) -> KeyFigure | None:
    lines = [*figures.run.metrics, *figures.run.figures]
    done = [value for line in lines if (value := number_in(line, "iteration")) is not None]
    starts = [line for line in figures.run.figures if line.get("kind") == "start"]
    end = number_in(starts[-1], "end") if starts else None
    total = number_in(figures.run.summary, "iterations")
    value = total if total is not None else max(done, default=None)
    if value is None:
        return None
    of = f"of {end:,.0f}" if end is not None and end > value else ""
    restarts = f"{len(starts) - 1} restart{'s' if len(starts) > 2 else ''}" if len(starts) > 1 else ""
    return KeyFigure("iterations", f"{value:,.0f}", ", ".join(filter(None, (of, restarts))))


def _speed(figures: RunFigures) -> KeyFigure | None:
    if mean := number_in(figures.run.summary, "samples_per_second"):
        seconds = number_in(figures.run.summary, "seconds") or 0.0
        return KeyFigure("samples/s", f"{mean:,.0f}", f"mean of {seconds:,.1f} s of training")
    if latest := figures.curve("samples_per_second"):
        return KeyFigure("samples/s", f"{latest[-1]['value']:,.0f}", "of the latest iterations")
    return None


def _time(figures: RunFigures) -> KeyFigure | None:
    if median := number_in(figures.run.summary, "steady_milliseconds"):
        return KeyFigure("time per iteration", f"{median:,.3g} ms", "median of the middle third")
    if figures.intervals:
        latest = figures.intervals[-1]
        milliseconds = 1e3 * latest.total("seconds") / latest.total("iterations")
        return KeyFigure("time per iteration", f"{milliseconds:,.3g} ms", "mean of the latest iterations")
    return None


def _waiting(figures: RunFigures) -> KeyFigure | None:
    times = {row["cause"]: row["ms"] for row in figures.mean_causes()}
    total = sum(times.get(name, 0.0) for name in CAUSES.values())
    waits = {name: times.get(name, 0.0) for name in CAUSES.values() if name.endswith(" wait")}
    if not total:
        return None
    worst = max(waits, key=waits.__getitem__)
    return KeyFigure("waiting", f"{sum(waits.values()) / total:.0%}", f"of an iteration, most for {worst}")


def _loss(figures: RunFigures) -> KeyFigure | None:
    loss = number_in(figures.run.summary, "loss")
    if loss is None and (curve := figures.curve("loss")):
        loss = curve[-1]["value"]
    return (
        None
        if loss is None
        else KeyFigure("training loss", f"{loss:.4f}" if loss < 1000 else f"{loss:.3g}", "mean of the last iterations")
    )


def _quality(figures: RunFigures) -> KeyFigure | None:
    evaluations: Any = figures.run.summary.get("evaluations")
    if isinstance(evaluations, dict) and (best := number_in(evaluations, "best")) is not None:
        name = str(evaluations.get("metric"))
        iteration = number_in(evaluations, "best_iteration") or 0
        early = ", stopped early" if evaluations.get("stopped_early") else ""
        return KeyFigure(f"best {METRIC_NAMES.get(name, name)}", f"{best:.4f}", f"after {iteration:,.0f}{early}")
    if rows := figures.evaluations():
        latest = next(row for row in rows if row["iteration"] == rows[-1]["iteration"])
        return KeyFigure(latest["metric"], f"{latest['value']:.4f}", f"after {latest['iteration']:,}")
    return None


def _rows(figures: RunFigures) -> KeyFigure | None:
    rows = {row["move"]: row["rows"] for row in figures.mean_moves()}
    if not rows:
        return None
    note = f"per iteration; {rows['pushed']:,.0f} pushed, {rows['written back']:,.0f} written back"
    return KeyFigure("rows fetched", f"{rows['fetched']:,.0f}", note)


def _memory(figures: RunFigures) -> KeyFigure | None:
    peaks = figures.peak_memory()
    if not peaks:
        return None
    worst = max(peaks, key=lambda row: float(row["bytes"]))
    return KeyFigure("largest memory", bytes_in_words(worst["bytes"]), f"of {worst['rank']}")


def _checkpoints(figures: RunFigures) -> KeyFigure | None:
    rows = figures.checkpoints()
    if not rows:
        return None
    stall = sum(row["stall_seconds"] for row in rows)
    return KeyFigure("checkpoints", f"{len(rows):,}", f"training stood still for {1e3 * stall:,.1f} ms")


def _energy(figures: RunFigures) -> KeyFigure | None:
    energy = figures.run.summary.get("energy")
    if not isinstance(energy, dict) or not (joules := number_in(energy, "joules")):
        return None
    samples = number_in(figures.run.summary, "samples") or 0.0
    note = f"{1e3 * joules / samples:,.3g} J per 1,000 samples" if samples else ""
    shown = f"{joules / 3.6e6:,.3g} kWh" if joules > 3.6e6 else f"{joules / 1e3:,.3g} kJ"
    return KeyFigure("energy", shown, note)
