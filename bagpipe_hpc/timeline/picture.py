"""The picture of a timeline: a row per thread, a bar per span, a colour per activity."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bagpipe_hpc.errors import TraceError
from bagpipe_hpc.timeline.innermost import Piece, innermost_pieces
from bagpipe_hpc.timeline.tracks import ITERATION, Span, Timeline, Track

FORMATS = (".png", ".svg", ".pdf")

# Waiting is pale, planning green, moving rows between servers and trainers blue, among trainers violet, computing
# orange. Hues differ enough for colour-blind readers; shades within a hue follow the order of the activities.
COLOURS = {
    "read batch": "#b8d98d", "assign samples": "#d9ef8b", "enter batch": "#8cc152", "plan": "#4d9221",
    "encode": "#66a61e", "send": "#276419",
    "scatter": "#9ecae1", "gather": "#2171b5", "announce": "#08306b",
    "get": "#4292c6", "insert": "#c6a14a", "cache": "#bf812d", "drain": "#dfc27d", "write back": "#6baed6",
    "exchange": "#9e6ebd", "early pushes": "#c2a5cf", "delayed gradients": "#d4b9da", "dense": "#5e3c99",
    "compute": "#e66101", "update": "#a63603", "evaluation": "#fdb863",
    "start": "#b8b09c", "finish": "#8d8672",
}  # fmt: skip
WAITING = "#e3e3e3"
OTHERS = ("#66c2a5", "#e78ac3", "#a6761d", "#1b9e77", "#e7298a", "#7570b3")  # for names without a colour above
ROW_INCHES, WIDTH_INCHES = 0.42, 14.0
FRAME = "#888888"
LABEL_POINTS = 6.5
# Fractions of the picture's width: a digit of a number, and the space around the number.
DIGIT_FRACTION, GAP_FRACTION = 0.0046, 0.005


def draw_timeline(timeline: Timeline, iterations: range, path: Path) -> None:
    """Draw what all threads did while these iterations were trained. Bars show the iteration that they work for.

    Threads without spans in that time are left out.

    Raises:
        TraceError: The name of the file does not end in a format that can be drawn.
    """
    if path.suffix.lower() not in FORMATS:
        raise TraceError(f"{path} has no format that can be drawn: end its name in {', '.join(FORMATS)}")
    start, stop = timeline.interval(iterations)
    tracks = {_title(track): list(innermost_pieces(track.spans, start, stop)) for track in timeline.tracks}
    tracks = {title: pieces for title, pieces in tracks.items() if pieces}
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + ROW_INCHES * len(tracks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = _colours({piece.span.name for pieces in tracks.values() for piece in pieces})
    for row, pieces in enumerate(tracks.values()):
        _draw_pieces(axes, row, pieces, start, colours)
        for label in place_labels(pieces, start, stop):
            ink = _ink(colours[label.name]) if label.is_inside else "black"
            axes.text(label.x, row, label.text, ha=label.align, va="center", fontsize=LABEL_POINTS, color=ink, zorder=4)
    _draw_frames(axes, [track for track in timeline.tracks if _title(track) in tracks], start, stop)
    _label(axes, list(tracks), iterations, start, stop)
    legend = [Patch(color=colour, label=name) for name, colour in colours.items()]
    legend.append(Patch(color=WAITING, label="waiting"))
    legend.append(Patch(facecolor="none", edgecolor=FRAME, label="frame: the whole iteration"))
    figure.legend(handles=legend, loc="outside lower center", ncols=8, frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def is_waiting(name: str) -> bool:
    """Return whether an activity is waiting."""
    return name.endswith(" wait") or name == "receive plan"


def _colours(names: set[str]) -> dict[str, str]:
    """Return the colours of the activities among these names that are not waiting, in the order of COLOURS."""
    work = {name for name in names - {ITERATION} if not is_waiting(name)}
    others = dict(zip(sorted(work - COLOURS.keys()), OTHERS * len(work), strict=False))
    return {name: colour for name, colour in COLOURS.items() if name in work} | others


def _draw_pieces(axes: Axes, row: int, pieces: list[Piece], start: float, colours: dict[str, str]) -> None:
    for span, left, right in pieces:
        if span.name == ITERATION:
            continue  # the bar of a whole iteration stays empty where no span inside it runs
        is_work = not is_waiting(span.name)
        colour = colours[span.name] if is_work else WAITING
        axes.barh(row, right - left, left=left - start, height=0.7, color=colour, linewidth=0, zorder=1 + is_work)


def _draw_frames(axes: Axes, tracks: list[Track], start: float, stop: float) -> None:
    for row, track in enumerate(tracks):
        for span in track.spans:
            left, right = max(span.start, start) - start, min(span.stop, stop) - start
            if span.name == ITERATION and left < right:
                axes.barh(row, right - left, left=left, height=0.86, facecolor="none", edgecolor=FRAME, linewidth=0.8)


class Label(NamedTuple):
    """The number of an iteration, in or beside the bar that works for it.

    Args:
        name: Name of the span.
        x: Milliseconds from the left edge of the picture.
        align: Which end of the text is at x, or "center".
    """

    name: str
    text: str
    x: float
    align: str
    is_inside: bool


def place_labels(pieces: list[Piece], start: float, stop: float) -> list[Label]:
    """Return the numbers of a thread's bars: inside the bar if the number fits, else to its right if there is room.

    A span that others interrupt gets one number, in its longest piece. Numbers overlap neither each other nor other
    bars.
    """
    longest: dict[Span, Piece] = {}
    for piece in pieces:
        if piece.duration > longest.get(piece.span, Piece(piece.span, 0, 0)).duration:
            longest[piece.span] = piece
    work = [piece for piece in pieces if piece.span.name != ITERATION and not is_waiting(piece.span.name)]
    labels = []
    for piece, following in zip(work, [*work[1:], None], strict=True):
        if piece.span.iteration is None or longest[piece.span] is not piece:
            continue
        text = str(piece.span.iteration)
        room = (stop - start) * (GAP_FRACTION + DIGIT_FRACTION * len(text))
        free_until = following.start if following else stop
        if piece.duration > room:
            middle = (piece.start + piece.stop) / 2 - start
            labels.append(Label(piece.span.name, text, middle, "center", True))
        elif free_until - piece.stop > room:
            beside = piece.stop - start + (stop - start) * GAP_FRACTION / 2
            labels.append(Label(piece.span.name, text, beside, "left", False))
    return labels


def _ink(colour: str) -> str:
    """Return black or white, whichever is readable on the colour."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _label(axes: Axes, titles: list[str], iterations: range, start: float, stop: float) -> None:
    axes.set_xlim(0, stop - start)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.set_yticks(range(len(titles)), titles, fontsize="small")
    axes.set_xlabel("milliseconds")
    axes.set_title(f"Iterations {iterations.start} to {iterations.stop - 1}; numbers: the iteration a bar works for")
    axes.title.set_fontsize("medium")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _title(track: Track) -> str:
    return f"{track.process.partition(' (')[0]}: {track.thread}"
