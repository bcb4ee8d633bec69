"""The picture of a timeline: a row per thread, a bar per span, coloured by activity."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.timeline.tracks import ITERATION, Span, Timeline, Track

FORMATS = (".png", ".svg", ".pdf")

# Waiting is pale; planning is green, moving rows between servers and trainers blue, among trainers violet, computing
# orange. Hues are as far apart as colour-blind eyes need, shades within a hue as the activities follow one another.
COLOURS = {
    "read batch": "#b8d98d", "place samples": "#d9ef8b", "enter batch": "#8cc152", "plan": "#4d9221",
    "encode": "#66a61e", "send": "#276419",
    "scatter": "#9ecae1", "gather": "#2171b5", "announce": "#08306b",
    "get": "#4292c6", "insert": "#c6a14a", "cache": "#bf812d", "drain": "#dfc27d", "write back": "#6baed6",
    "exchange": "#9e6ebd", "early pushes": "#c2a5cf", "delayed gradients": "#d4b9da", "dense": "#5e3c99",
    "compute": "#e66101", "update": "#a63603", "evaluation": "#fdb863",
}  # fmt: skip
WAITING = "#e3e3e3"
OTHERS = ("#66c2a5", "#e78ac3", "#a6761d", "#1b9e77", "#e7298a", "#7570b3")  # for names that have no colour here
ROW_INCHES, WIDTH_INCHES = 0.42, 14.0
LABEL_FRACTION = 0.018  # of the width: the shortest bar that shows its iteration


def draw_timeline(timeline: Timeline, iterations: range, path: Path) -> None:
    """Draw what all threads did while these iterations were trained; bars show the iteration that they work for.

    Raises:
        TraceError: the name of the file is of no format that can be drawn.
    """
    if path.suffix.lower() not in FORMATS:
        raise TraceError(f"{path} is of no format that can be drawn: end its name in {', '.join(FORMATS)}")
    start, stop = timeline.interval(iterations)
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + ROW_INCHES * len(timeline.tracks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = _colours(timeline, start, stop)
    for row, track in enumerate(timeline.tracks):
        _draw_track(axes, row, track, start, stop, colours)
    _label(axes, timeline, iterations, start, stop)
    legend = [Patch(color=colour, label=name) for name, colour in colours.items()]
    legend.append(Patch(color=WAITING, label="waiting"))
    figure.legend(handles=legend, loc="outside lower center", ncols=8, frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def is_waiting(name: str) -> bool:
    """Whether an activity is no work."""
    return name.endswith(" wait") or name == "receive plan"


def _colours(timeline: Timeline, start: float, stop: float) -> dict[str, str]:
    """Colours of the work to be seen, in the order of COLOURS."""
    seen = {span.name for track in timeline.tracks for span in _visible(track, start, stop)}
    work = {name for name in seen - {ITERATION} if not is_waiting(name)}
    others = dict(zip(sorted(work - COLOURS.keys()), OTHERS * len(work), strict=False))
    return {name: colour for name, colour in COLOURS.items() if name in work} | others


def _visible(track: Track, start: float, stop: float) -> list[Span]:
    return [span for span in track.spans if span.stop > start and span.start < stop]


def _draw_track(axes: Axes, row: int, track: Track, start: float, stop: float, colours: dict[str, str]) -> None:
    room = LABEL_FRACTION * (stop - start)
    free_from = stop - start  # where the work that follows begins
    for span in reversed(_visible(track, start, stop)):
        left, right = max(span.start, start) - start, min(span.stop, stop) - start
        if span.name == ITERATION:  # a frame: what happens inside fills it
            axes.barh(row, right - left, left=left, height=0.86, facecolor="none", edgecolor="#888888", linewidth=0.8)
            continue
        is_work = not is_waiting(span.name)
        colour = colours[span.name] if is_work else WAITING
        axes.barh(row, right - left, left=left, height=0.7, color=colour, linewidth=0.4 * is_work, zorder=1 + is_work)
        if not is_work:
            continue
        if span.iteration is not None and right - left > room:
            _write(axes, (left + right) / 2, row, span.iteration, "center", _ink(colour))
        elif span.iteration is not None and free_from - right > room:
            _write(axes, right + room / 8, row, span.iteration, "left", "black")
        free_from = left


def _write(axes: Axes, x: float, row: int, iteration: int, align: str, colour: str) -> None:
    axes.text(x, row, str(iteration), ha=align, va="center", fontsize=6.5, color=colour, zorder=3)


def _ink(colour: str) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _label(axes: Axes, timeline: Timeline, iterations: range, start: float, stop: float) -> None:
    axes.set_xlim(0, stop - start)
    axes.set_ylim(len(timeline.tracks) - 0.4, -0.6)
    axes.set_yticks(range(len(timeline.tracks)), [_title(track) for track in timeline.tracks], fontsize="small")
    axes.set_xlabel("milliseconds")
    axes.set_title(f"Iterations {iterations.start} to {iterations.stop - 1}; numbers: the iteration a bar works for")
    axes.title.set_fontsize("medium")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _title(track: Track) -> str:
    return f"{track.process.partition(' (')[0]}: {track.thread}"
