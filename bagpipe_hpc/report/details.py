"""Charts of one run: time by cause, rows, bytes, balance, memory, checkpoints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import altair as alt

from bagpipe_hpc.report.encodings import (
    CAUSE_ORDER,
    COLOURS,
    LOG_AXIS,
    MANY_LINES,
    Picture,
    Row,
    cause_colour,
    inline,
    named_colour,
    rank_colour,
    si_axis,
    tooltips,
    with_marks,
    x_axis,
)
from bagpipe_hpc.report.figures import MOVES, PATHS, RunFigures
from bagpipe_hpc.report.key_figures import bytes_in_words

ROLE_DASHES = {"oracle": [2, 2], "server": [6, 3], "trainer": [1, 0]}
CUT = 3.0  # times the median of a stack, which its axis shows at least
_SECONDS_AXIS = alt.Axis(
    format="~g", values=[0, 0.001, 0.01, 0.1, 1, 10, 100, 1000], labelExpr="format(datum.value, '~g')"
)


def causes(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].causes()
    if len(rows) == 0:
        return None
    stack, cut = _stack(rows)
    says = f"Mean time of an iteration of a trainer. Grey is waiting; what computes is orange.{cut}"
    chart = with_marks(stack, runs, "checkpoint", "restart")
    return Picture("causes", "Time per iteration by cause", says, chart, is_over_time=True)


def overlapped(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].causes(overlapped=True)
    if len(rows) == 0:
        return None
    stack, cut = _stack(rows)
    says = f"Work of the exchange thread while the iteration computes; it adds time where it is longer.{cut}"
    return Picture("overlapped", "Overlapped work per iteration", says, alt.layer(stack), is_over_time=True)


def _stack(rows: Sequence[Row]) -> tuple[alt.Chart, str]:
    """Return a stacked area, and what to say about its axis: it cuts off peaks that would hide all the rest."""
    present = {row["cause"] for row in rows}
    domain = [name for name in CAUSE_ORDER if name in present] + sorted(present - set(CAUSE_ORDER))
    numbered = [{**row, "order": domain.index(row["cause"])} for row in rows]
    area = alt.Chart(inline(numbered))
    is_one = len({row["iteration"] for row in rows}) == 1
    marked = area.mark_bar(size=40, clip=True) if is_one else area.mark_area(line=False, clip=True)
    totals = list(_totals(rows).values())
    top = CUT * statistics.median(totals)
    is_cut = len(totals) > 3 and max(totals) > 2 * top
    scale = alt.Scale(domain=[0, top], nice=True) if is_cut else alt.Scale()
    cut = f" Peaks of up to {max(totals):,.0f} ms are cut off." if is_cut else ""
    encoded = marked.encode(
        x=x_axis(),
        y=alt.Y("ms:Q", title="ms", stack="zero", scale=scale),
        color=cause_colour(domain),
        order="order:Q",
        tooltip=tooltips(alt.Tooltip("cause:N"), alt.Tooltip("ms:Q", format=",.3f")),
    )
    return encoded, cut


def _totals(rows: Sequence[Row]) -> dict[int, float]:
    totals: dict[int, float] = {}
    for row in rows:
        totals[row["iteration"]] = totals.get(row["iteration"], 0.0) + row["ms"]
    return totals


def moves(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].moves()
    if not rows:
        return None
    chart = alt.Chart(inline(rows)).mark_line(strokeWidth=1.6, point=len({row["iteration"] for row in rows}) == 1)
    encoded = chart.encode(
        x=x_axis(),
        y=alt.Y("rows:Q", title="rows per iteration", scale=alt.Scale(type="symlog"), axis=LOG_AXIS),
        color=named_colour("move", list(MOVES.values())),
        tooltip=tooltips(alt.Tooltip("move:N"), alt.Tooltip("rows:Q", format=",.1f")),
    )
    says = "Rows of all trainers: from servers (fetched), to servers (written back), to other trainers (pushed)."
    return Picture("moves", "Rows moved", says, with_marks(encoded, runs, "restart"), is_over_time=True)


def cache(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].cached_rows()
    if not rows:
        return None
    trainers = {row["trainer"] for row in rows}
    x, y = x_axis(), alt.Y("rows:Q", title="rows", axis=si_axis())
    if len(trainers) > MANY_LINES:
        chart = alt.Chart(inline(rows)).mark_area(opacity=0.6)
        encoded = chart.encode(x=x, y=alt.Y("min(rows):Q", title="rows"), y2="max(rows):Q")
    else:
        chart = alt.Chart(inline(rows)).mark_line(strokeWidth=1.6)
        tips = tooltips(alt.Tooltip("trainer:N"), alt.Tooltip("rows:Q", format=","))
        encoded = chart.encode(x=x, y=y, color=rank_colour("trainer", len(trainers)), tooltip=tips)
    limit = runs[0].cache_limit
    says = "Rows in the cache of each trainer"
    largest = max(row["rows"] for row in rows)
    if limit is None or limit > 2 * largest:
        note = "" if limit is None else f"; there is room for {limit:,.0f}"
        return Picture("cache", "Cache occupancy", f"{says}{note}.", alt.layer(encoded), is_over_time=True)
    rule = alt.Chart(inline([{"rows": limit}])).mark_rule(color="#d62728", strokeDash=[6, 3]).encode(y=y)
    says = f"{says}. The red line is its size: at it, rows are forced out."
    return Picture("cache", "Cache occupancy", says, alt.layer(encoded, rule), is_over_time=True)


def paths(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = [row for row in runs[0].paths() if row["bytes"] > 0]
    if not rows:
        return None
    base = alt.Chart(inline([{**row, "shown": bytes_in_words(row["bytes"])} for row in rows]))
    y = alt.Y("path:N", title=None, sort=list(PATHS.values()), axis=alt.Axis(labelLimit=150))
    room = alt.Scale(domain=[0, 1.15 * max(row["bytes"] for row in rows)])  # for the last label
    x = alt.X("bytes:Q", title="bytes per iteration", scale=room, axis=si_axis(grid=False, tickCount=6))
    tips = ["path:N", alt.Tooltip("bytes:Q", format=",.0f")]
    bars = base.mark_bar(color=COLOURS[0]).encode(x=x, y=y, tooltip=tips)
    labels = base.mark_text(align="left", dx=4, color="#808080").encode(x=x, y=y, text="shown:N")
    says = "Bytes that all ranks together send per iteration, by their way."
    return Picture("paths", "Bytes by path", says, alt.layer(bars, labels))


def balance(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].balance()
    if not rows:
        return None
    order = list(dict.fromkeys(row["what"] for row in rows))
    y = alt.Y("what:N", title=None, sort=order)
    shares = [row["share"] for row in rows]
    scale = alt.Scale(domain=[min(0.9, *shares), max(1.1, *shares)], padding=12, zero=False)
    x = alt.X("share:Q", title="work of one rank / mean of its role", scale=scale)
    points = alt.Chart(inline(rows)).mark_point(filled=True, size=70, opacity=0.7)
    tips = ["rank:N", "what:N", alt.Tooltip("share:Q", format=".3f"), alt.Tooltip("value:Q", format=",.4~g")]
    colour = alt.Color("what:N", sort=order, scale=alt.Scale(range=COLOURS), legend=None)
    mean = alt.Chart(inline([{"share": 1}])).mark_rule(color="#808080", strokeDash=[4, 3]).encode(x="share:Q")
    says = "Each point is a rank. At 1 it has as much to do as the mean; the farthest point to the right holds up all."
    return Picture("balance", "Balance", says, alt.layer(mean, points.encode(x=x, y=y, color=colour, tooltip=tips)))


def memory(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].memory()
    if not rows:
        return None
    ranks = list(dict.fromkeys(row["rank"] for row in rows))
    tips = tooltips(alt.Tooltip("rank:N"), alt.Tooltip("bytes:Q", format=".4~s"))
    colour = rank_colour("rank", len(ranks)) if len(ranks) <= MANY_LINES else named_colour("role", list(ROLE_DASHES))
    lines = alt.Chart(inline(rows)).mark_line(strokeWidth=1.6)
    encoded = lines.encode(
        x=x_axis(),
        y=alt.Y("bytes:Q", title="bytes", axis=si_axis()),
        color=colour,
        detail="rank:N",
        strokeDash=alt.StrokeDash(
            "role:N",
            scale=alt.Scale(domain=list(ROLE_DASHES), range=list(ROLE_DASHES.values())),
            legend=None,
        ),
        tooltip=tips,
    )
    says = "Memory of each rank. A line that keeps rising says when the job will run out of it."
    return Picture("memory", "Memory", says, with_marks(encoded, runs, "restart"), is_over_time=True)


def checkpoints(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = runs[0].checkpoints()
    if not rows:
        return None
    kinds = {"seconds": "written", "stall_seconds": "training stood still"}
    points = [{**row, "what": shown, "value": row[name]} for row in rows for name, shown in kinds.items()]
    tips = tooltips(
        alt.Tooltip("kind:N"),
        alt.Tooltip("seconds:Q", format=".3f"),
        alt.Tooltip("stall_seconds:Q", format=".4f"),
        alt.Tooltip("bytes_written:Q", format=".3~s"),
    )
    marks = alt.Chart(inline(points)).mark_line(point=alt.OverlayMarkDef(size=40), strokeWidth=1)
    y = alt.Y("value:Q", title="seconds", scale=alt.Scale(type="symlog", constant=0.001), axis=_SECONDS_AXIS)
    chart = marks.encode(x=x_axis(), y=y, color=named_colour("what", list(kinds.values())), tooltip=tips)
    says = "Seconds from the order to the commit, and how long training stood still; the axis is logarithmic."
    return Picture("checkpoints", "Checkpoints", says, alt.layer(chart), is_over_time=True)
