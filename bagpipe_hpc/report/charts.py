"""The charts of a report, as Vega-Lite specifications (altair). One run has more of them than several runs together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from bagpipe_hpc.oracle.summary import CAUSES, DELAYED_CAUSES
from bagpipe_hpc.report.figures import MOVES, PATHS, REST, RunFigures

Row = dict[str, Any]

HEIGHT = 200
# As in the timeline: waiting is grey, moving rows between servers and trainers blue and brown, among trainers violet,
# computing orange.
CAUSE_COLOURS = {
    "plan wait": "#d4d4d4", "prefetch wait": "#b3b3b3", "delayed wait": "#8f8f8f",
    "exchange": "#9e6ebd", "cache": "#bf812d", "compute": "#e66101", "update": "#a63603", "dense": "#5e3c99",
    "delayed gradients": "#d1a7d8", "drain": "#dfc27d", "write-back": "#6baed6", "insert": "#c6a14a",
    "early pushes": "#c2a5cf", "checkpoint": "#1b9e77", REST: "#9bd3c4",
}  # fmt: skip
COLOURS = ["#1f77b4", "#e66101", "#1b9e77", "#9e6ebd", "#d62728", "#bf812d", "#17becf", "#e377c2", "#7f7f7f", "#bcbd22"]
MARK_COLOURS = {"checkpoint": "#1b9e77", "evaluation": "#7f7f7f", "restart": "#d62728"}
ROLE_DASHES = {"oracle": [2, 2], "server": [6, 3], "trainer": [1, 0]}
CAUSE_ORDER = [*CAUSES.values(), *DELAYED_CAUSES.values(), REST]
CUT = 3.0  # times the median of a stack, which its axis shows at least
MANY_LINES = 12  # of trainers, above which a chart shows their range


@dataclass(frozen=True)
class Picture:
    """A chart with what is said about it.

    Args:
        key: Its name in the page.
        title: Its title.
        says: What it tells, in one sentence.
        chart: The chart, without a size.
        is_over_time: Whether its x axis is the iteration, which the page can replace by the time.
    """

    key: str
    title: str
    says: str
    chart: alt.LayerChart | alt.Chart
    is_over_time: bool = False


def pictures_of(runs: Sequence[RunFigures]) -> list[Picture]:
    """Return the charts of one run, or those that compare several runs. Charts without values are left out.

    Args:
        runs: The figures of each run, at least one.
    """
    makers = _OF_ONE if len(runs) == 1 else _OF_SEVERAL
    return [picture for maker in makers if (picture := maker(runs)) is not None]


def _data(rows: Sequence[Row]) -> alt.InlineData:
    return alt.InlineData(values=list(rows))


_SI = "format(datum.value, '~s')"  # each label with its own prefix: Vega gives all labels of an axis the same one


def _si_axis(**more: Any) -> alt.Axis:
    return alt.Axis(labelExpr=_SI, **more)


def _x() -> alt.X:
    return alt.X("iteration:Q", title="iteration", axis=_si_axis(tickCount=6, grid=False))


def _tips(*more: alt.Tooltip) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("run:N"),
        alt.Tooltip("iteration:Q", format=","),
        alt.Tooltip("minutes:Q", format=".2f"),
        *more,
    ]


def _run_colour(runs: Sequence[RunFigures]) -> alt.Color:
    legend = alt.Legend(title=None, orient="top", columns=3, labelLimit=260) if len(runs) > 1 else None
    return alt.Color("run:N", sort=[each.run.name for each in runs], scale=alt.Scale(range=COLOURS), legend=legend)


def _with_marks(chart: alt.Chart, runs: Sequence[RunFigures], *kinds: str) -> alt.LayerChart:
    """Return a chart with rules at checkpoints, evaluations and restarts, if it shows one run."""
    marks = runs[0].marks() if len(runs) == 1 else []
    layers: list[alt.Chart] = []
    for kind in kinds:
        if rows := [mark for mark in marks if mark["mark"] == kind]:
            width, opacity, dash = _MARK_STROKES[kind]
            rule = alt.Chart(_data(rows)).mark_rule(
                color=MARK_COLOURS[kind], strokeDash=dash, strokeWidth=width, opacity=opacity
            )
            layers.append(rule.encode(x=_x(), tooltip=["mark:N", *_tips()]))
    return alt.layer(*layers, chart)


_ALL_MARKS = ("evaluation", "checkpoint", "restart")
_MARK_STROKES = {  # width, opacity and dash; an evaluation shows behind the checkpoint of the same iteration
    "evaluation": (6.0, 0.22, [1, 0]),
    "checkpoint": (1.5, 0.75, [2, 3]),
    "restart": (1.5, 0.75, [1, 0]),
}


def _line(runs: Sequence[RunFigures], name: str, title: str, axis: alt.Axis) -> alt.LayerChart | None:
    rows = [row for each in runs for row in each.curve(name)]
    if not rows:
        return None
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=name != "loss"), axis=axis)
    tip = alt.Tooltip("value:Q", title=title, format=",.5~g")
    lines = alt.Chart(_data(rows)).mark_line(strokeWidth=1.6, point=len(rows) == len(runs))
    return _with_marks(lines.encode(x=_x(), y=y, color=_run_colour(runs), tooltip=_tips(tip)), runs, *_ALL_MARKS)


def _loss(runs: Sequence[RunFigures]) -> Picture | None:
    chart = _line(runs, "loss", "loss", alt.Axis(format="~g"))
    says = "Mean training loss of each 20 iterations."
    return chart and Picture("loss", "Training loss", says, chart, is_over_time=True)


def _speed(runs: Sequence[RunFigures]) -> Picture | None:
    chart = _line(runs, "samples_per_second", "samples/s", _si_axis())
    says = "Samples per second of each 20 iterations, evaluations included. Dips belong to evaluations and checkpoints."
    return chart and Picture("speed", "Speed", says, chart, is_over_time=True)


def _metrics(runs: Sequence[RunFigures]) -> Picture | None:
    rows = [row for each in runs for row in each.evaluations()]
    present = {row["metric"] for row in rows}
    preferred = ["AUC", "grouped AUC", "NDCG", "mean squared error", "log loss"]
    chosen = [name for name in preferred if name in present][:2]
    if not chosen:
        return None
    charts = []
    for name in chosen:
        y = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False), axis=alt.Axis(format=".4~f", tickCount=4))
        tip = alt.Tooltip("value:Q", title=name, format=".5f")
        base = alt.Chart(_data([row for row in rows if row["metric"] == name]))
        lines = base.mark_line(point=alt.OverlayMarkDef(size=36), strokeWidth=1.6)
        charts.append(lines.encode(x=_x(), y=y, color=_colour_of_metric(runs, name, chosen), tooltip=_tips(tip)))
    if len(charts) == 1:
        chart = alt.layer(charts[0])
    else:
        charts[1] = charts[1].encode(y=charts[1].encoding.y.axis(format=".4~f", tickCount=4, orient="right"))
        charts[1] = charts[1].mark_line(point=alt.OverlayMarkDef(size=36), strokeWidth=1.6, strokeDash=[5, 3])
        chart = alt.layer(*charts).resolve_scale(y="independent")
    says = f"{chosen[0]} (solid)" + (f" and {chosen[1]} (dashed, right axis)" if len(chosen) > 1 else "")
    return Picture("metrics", "Evaluations", f"{says} of each evaluation.", chart, is_over_time=True)


def _colour_of_metric(runs: Sequence[RunFigures], name: str, chosen: Sequence[str]) -> alt.Color | Any:
    if len(runs) > 1:
        return _run_colour(runs)
    return alt.value(COLOURS[chosen.index(name)])


def _causes(runs: Sequence[RunFigures]) -> Picture | None:
    rows = runs[0].causes()
    if len(rows) == 0:
        return None
    stack, cut = _stack(rows)
    says = f"Mean time of an iteration of a trainer. Grey is waiting; what computes is orange.{cut}"
    chart = _with_marks(stack, runs, "checkpoint", "restart")
    return Picture("causes", "Time per iteration by cause", says, chart, is_over_time=True)


def _overlapped(runs: Sequence[RunFigures]) -> Picture | None:
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
    area = alt.Chart(_data(numbered))
    is_one = len({row["iteration"] for row in rows}) == 1
    marked = area.mark_bar(size=40, clip=True) if is_one else area.mark_area(line=False, clip=True)
    totals = list(_totals(rows).values())
    top = CUT * statistics.median(totals)
    is_cut = len(totals) > 3 and max(totals) > 2 * top
    scale = alt.Scale(domain=[0, top], nice=True) if is_cut else alt.Scale()
    cut = f" Peaks of up to {max(totals):,.0f} ms are cut off." if is_cut else ""
    encoded = marked.encode(
        x=_x(),
        y=alt.Y("ms:Q", title="ms", stack="zero", scale=scale),
        color=_cause_colour(domain),
        order="order:Q",
        tooltip=_tips(alt.Tooltip("cause:N"), alt.Tooltip("ms:Q", format=",.3f")),
    )
    return encoded, cut


def _totals(rows: Sequence[Row]) -> dict[int, float]:
    totals: dict[int, float] = {}
    for row in rows:
        totals[row["iteration"]] = totals.get(row["iteration"], 0.0) + row["ms"]
    return totals


def _cause_colour(domain: list[str]) -> alt.Color:
    colours = [CAUSE_COLOURS.get(name, "#66c2a5") for name in domain]
    legend = alt.Legend(title=None, orient="right", symbolSize=70, labelFontSize=10)
    return alt.Color("cause:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)


def _bars_by_run(
    runs: Sequence[RunFigures], rows: Sequence[Row], field: str, x: alt.X, colour: alt.Color, tip: alt.Tooltip
) -> alt.Chart:
    y = alt.Y("run:N", title=None, sort=[each.run.name for each in runs], axis=alt.Axis(labelLimit=150))
    bars = alt.Chart(_data(rows)).mark_bar()
    return bars.encode(x=x, y=y, color=colour, order="order:Q", tooltip=["run:N", f"{field}:N", tip])


def _causes_by_run(runs: Sequence[RunFigures]) -> Picture | None:
    rows = [row for each in runs for row in each.mean_causes()]
    if not rows:
        return None
    present = {row["cause"] for row in rows}
    domain = [name for name in CAUSE_ORDER if name in present] + sorted(present - set(CAUSE_ORDER))
    numbered = [{**row, "order": domain.index(row["cause"])} for row in rows]
    x, tip = alt.X("ms:Q", title="ms per iteration"), alt.Tooltip("ms:Q", format=",.3f")
    chart = _bars_by_run(runs, numbered, "cause", x, _cause_colour(domain), tip)
    says = "Mean time of an iteration of a trainer over the whole run. Grey is waiting; what computes is orange."
    return Picture("causes", "Time per iteration by cause", says, chart)


def _moves(runs: Sequence[RunFigures]) -> Picture | None:
    rows = runs[0].moves()
    if not rows:
        return None
    chart = alt.Chart(_data(rows)).mark_line(strokeWidth=1.6, point=len({row["iteration"] for row in rows}) == 1)
    encoded = chart.encode(
        x=_x(),
        y=alt.Y("rows:Q", title="rows per iteration", scale=alt.Scale(type="symlog"), axis=_LOG_AXIS),
        color=_named_colour("move", list(MOVES.values())),
        tooltip=_tips(alt.Tooltip("move:N"), alt.Tooltip("rows:Q", format=",.1f")),
    )
    says = "Rows of all trainers: from servers (fetched), to servers (written back), to other trainers (pushed)."
    return Picture("moves", "Rows moved", says, _with_marks(encoded, runs, "restart"), is_over_time=True)


_LOG_AXIS = _si_axis(values=[0, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7])


def _named_colour(field: str, domain: list[str]) -> alt.Color:
    legend = alt.Legend(title=None, orient="top", columns=4)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=domain, range=COLOURS[: len(domain)]), legend=legend)


def _moves_by_run(runs: Sequence[RunFigures]) -> Picture | None:
    return _grouped(
        runs,
        [row for each in runs for row in each.mean_moves()],
        field="move",
        value="rows",
        picture=("moves", "Rows moved per iteration", "Rows of all trainers; the axis is logarithmic."),
    )


def _grouped(
    runs: Sequence[RunFigures],
    rows: Sequence[Row],
    *,
    field: str,
    value: str,
    picture: tuple[str, str, str],
    y: alt.Y | None = None,
) -> Picture | None:
    """Return bars of each run, side by side, for each value of a field; on a logarithmic axis, unless y is given."""
    shown = [row for row in rows if row[value] > 0]
    if not shown:
        return None
    key, title, says = picture
    chart = alt.Chart(_data(shown)).mark_bar()
    encoded = chart.encode(
        x=alt.X(f"{field}:N", title=None, sort=None, axis=alt.Axis(labelAngle=0, labelLimit=110)),
        xOffset=alt.XOffset("run:N", sort=[each.run.name for each in runs]),
        y=y or alt.Y(f"{value}:Q", title=value, scale=alt.Scale(type="symlog"), axis=_byte_axis(value)),
        color=_run_colour(runs),
        tooltip=["run:N", f"{field}:N", alt.Tooltip(f"{value}:Q", format=",.4~s")],
    )
    return Picture(key, title, says, encoded)


def _byte_axis(value: str) -> alt.Axis:
    return _si_axis(values=[10.0**power for power in range(0, 13, 1 if value == "rows" else 2)])


def _cache(runs: Sequence[RunFigures]) -> Picture | None:
    rows = runs[0].cached_rows()
    if not rows:
        return None
    trainers = {row["trainer"] for row in rows}
    x, y = _x(), alt.Y("rows:Q", title="rows", axis=_si_axis())
    if len(trainers) > MANY_LINES:
        chart = alt.Chart(_data(rows)).mark_area(opacity=0.6)
        encoded = chart.encode(x=x, y=alt.Y("min(rows):Q", title="rows"), y2="max(rows):Q")
    else:
        chart = alt.Chart(_data(rows)).mark_line(strokeWidth=1.6)
        tips = _tips(alt.Tooltip("trainer:N"), alt.Tooltip("rows:Q", format=","))
        encoded = chart.encode(x=x, y=y, color=_rank_colour("trainer", len(trainers)), tooltip=tips)
    limit = runs[0].cache_limit
    says = "Rows in the cache of each trainer"
    largest = max(row["rows"] for row in rows)
    if limit is None or limit > 2 * largest:
        note = "" if limit is None else f"; there is room for {limit:,.0f}"
        return Picture("cache", "Cache occupancy", f"{says}{note}.", alt.layer(encoded), is_over_time=True)
    rule = alt.Chart(_data([{"rows": limit}])).mark_rule(color="#d62728", strokeDash=[6, 3]).encode(y="rows:Q")
    says = f"{says}. The red line is its size: at it, rows are forced out."
    return Picture("cache", "Cache occupancy", says, alt.layer(encoded, rule), is_over_time=True)


def _rank_colour(field: str, number: int) -> alt.Color:
    legend = alt.Legend(title=None, orient="right", labelFontSize=10) if number <= MANY_LINES else None
    return alt.Color(f"{field}:N", sort=None, scale=alt.Scale(range=COLOURS), legend=legend)


def _paths(runs: Sequence[RunFigures]) -> Picture | None:
    rows = [row for row in runs[0].paths() if row["bytes"] > 0]
    if not rows:
        return None
    base = alt.Chart(_data([{**row, "shown": _bytes_in_words(row["bytes"])} for row in rows]))
    y = alt.Y("path:N", title=None, sort=list(PATHS.values()), axis=alt.Axis(labelLimit=150))
    x = alt.X("bytes:Q", title="bytes per iteration", axis=_si_axis(grid=False))
    tips = ["path:N", alt.Tooltip("bytes:Q", format=",.0f")]
    bars = base.mark_bar(color=COLOURS[0]).encode(x=x, y=y, tooltip=tips)
    labels = base.mark_text(align="left", dx=4, color="#808080").encode(x=x, y=y, text="shown:N")
    says = "Bytes that all ranks together send per iteration, by their way."
    return Picture("paths", "Bytes by path", says, alt.layer(bars, labels))


def _bytes_in_words(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _paths_by_run(runs: Sequence[RunFigures]) -> Picture | None:
    return _grouped(
        runs,
        [row for each in runs for row in each.paths()],
        field="path",
        value="bytes",
        picture=("paths", "Bytes by path", "Bytes of all ranks together per iteration; the axis is logarithmic."),
    )


def _balance(runs: Sequence[RunFigures]) -> Picture | None:
    rows = runs[0].balance()
    if not rows:
        return None
    order = list(dict.fromkeys(row["what"] for row in rows))
    y = alt.Y("what:N", title=None, sort=order)
    shares = [row["share"] for row in rows]
    scale = alt.Scale(domain=[min(0.9, *shares), max(1.1, *shares)], padding=12)
    x = alt.X("share:Q", title="work of one rank / mean of its role", scale=scale)
    points = alt.Chart(_data(rows)).mark_point(filled=True, size=70, opacity=0.7)
    tips = ["rank:N", "what:N", alt.Tooltip("share:Q", format=".3f"), alt.Tooltip("value:Q", format=",.4~g")]
    colour = alt.Color("what:N", sort=order, scale=alt.Scale(range=COLOURS), legend=None)
    mean = alt.Chart(_data([{"share": 1}])).mark_rule(color="#808080", strokeDash=[4, 3]).encode(x="share:Q")
    says = "Each point is a rank. At 1 it has as much to do as the mean; the farthest point to the right holds up all."
    return Picture(
        "balance", "Balance", says, alt.layer(mean, points.encode(x=x, y=y, color=colour, tooltip=tips))
    )


def _memory(runs: Sequence[RunFigures]) -> Picture | None:
    rows = runs[0].memory()
    if not rows:
        return None
    ranks = list(dict.fromkeys(row["rank"] for row in rows))
    tips = _tips(alt.Tooltip("rank:N"), alt.Tooltip("bytes:Q", format=".4~s"))
    colour = _rank_colour("rank", len(ranks)) if len(ranks) <= MANY_LINES else _named_colour("role", list(ROLE_DASHES))
    lines = alt.Chart(_data(rows)).mark_line(strokeWidth=1.6)
    encoded = lines.encode(
        x=_x(),
        y=alt.Y("bytes:Q", title="bytes", axis=_si_axis()),
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
    return Picture("memory", "Memory", says, _with_marks(encoded, runs, "restart"), is_over_time=True)


def _memory_by_run(runs: Sequence[RunFigures]) -> Picture | None:
    largest: dict[tuple[str, str], Row] = {}
    for each in runs:
        for row in each.peak_memory():
            role = row["rank"].split()[0].rstrip(",")
            key = (row["run"], role)
            if row["bytes"] > largest.get(key, {"bytes": 0})["bytes"]:
                largest[key] = {**row, "role": role}
    return _grouped(
        runs,
        list(largest.values()),
        field="role",
        value="bytes",
        picture=("memory", "Peak memory", "The rank of each role that used most memory."),
        y=alt.Y("bytes:Q", title="bytes", axis=_si_axis()),
    )


def _checkpoints(runs: Sequence[RunFigures]) -> Picture | None:
    rows = runs[0].checkpoints()
    if not rows:
        return None
    kinds = {"seconds": "written", "stall_seconds": "training stood still"}
    points = [{**row, "what": shown, "value": row[name]} for row in rows for name, shown in kinds.items()]
    tips = _tips(
        alt.Tooltip("kind:N"),
        alt.Tooltip("seconds:Q", format=".3f"),
        alt.Tooltip("stall_seconds:Q", format=".4f"),
        alt.Tooltip("bytes_written:Q", format=".3~s"),
    )
    marks = alt.Chart(_data(points)).mark_line(point=alt.OverlayMarkDef(size=40), strokeWidth=1)
    y = alt.Y("value:Q", title="seconds", scale=alt.Scale(type="symlog", constant=0.001), axis=_SECONDS_AXIS)
    chart = marks.encode(x=_x(), y=y, color=_named_colour("what", list(kinds.values())), tooltip=tips)
    says = "Seconds from the order to the commit, and how long training stood still; the axis is logarithmic."
    return Picture("checkpoints", "Checkpoints", says, alt.layer(chart), is_over_time=True)


_SECONDS_AXIS = alt.Axis(format="~g", values=[0, 0.001, 0.01, 0.1, 1, 10, 100, 1000], labelExpr="format(datum.value, '~g')")

_OF_ONE: tuple[Callable[[Sequence[RunFigures]], Picture | None], ...] = (
    _loss, _metrics, _speed, _causes, _overlapped, _moves, _cache, _paths, _balance, _memory, _checkpoints,
)  # fmt: skip
_OF_SEVERAL = (_loss, _metrics, _speed, _causes_by_run, _moves_by_run, _paths_by_run, _memory_by_run)
