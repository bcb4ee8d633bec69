"""What the charts of a report have in common: axes, colours, tooltips, and marks of what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from bagpipe_hpc.oracle.summary import CAUSES, DELAYED_CAUSES
from bagpipe_hpc.report.figures import REST, RunFigures

Row = dict[str, Any]
AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart

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
CAUSE_ORDER = [*CAUSES.values(), *DELAYED_CAUSES.values(), REST]
MANY_LINES = 12  # of trainers, above which a chart shows their range
_SI = "format(datum.value, '~s')"  # each label with its own prefix: Vega gives all labels of an axis the same one
LOG_AXIS = alt.Axis(labelExpr=_SI, values=[0, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7])
ALL_MARKS = ("evaluation", "checkpoint", "restart")
_MARK_STROKES = {  # width, opacity and dash; an evaluation shows behind the checkpoint of the same iteration
    "evaluation": (6.0, 0.22, [1, 0]),
    "checkpoint": (1.5, 0.75, [2, 3]),
    "restart": (1.5, 0.75, [1, 0]),
}


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
    chart: AnyChart
    is_over_time: bool = False


def inline(rows: Sequence[Row]) -> alt.InlineData:
    """Return rows as the data of a chart, without altair's check of every value, which would take seconds."""
    with debug_mode(False):
        return alt.InlineData(values=list(rows))


def si_axis(**more: Any) -> alt.Axis:
    """Return an axis whose labels have prefixes of the SI."""
    return alt.Axis(labelExpr=_SI, **more)


def x_axis() -> alt.X:
    """Return the x axis over iterations."""
    return alt.X("iteration:Q", title="iteration", axis=si_axis(tickCount=6, grid=False))


def tooltips(*more: alt.Tooltip) -> list[alt.Tooltip]:
    """Return what is shown for a point: run, iteration and minutes, and more."""
    return [
        alt.Tooltip("run:N"),
        alt.Tooltip("iteration:Q", format=","),
        alt.Tooltip("minutes:Q", format=".2f"),
        *more,
    ]


def run_colour(runs: Sequence[RunFigures]) -> alt.Color:
    """Return a colour for each run."""
    legend = alt.Legend(title=None, orient="top", columns=3, labelLimit=260) if len(runs) > 1 else None
    return alt.Color("run:N", sort=[each.run.name for each in runs], scale=alt.Scale(range=COLOURS), legend=legend)


def named_colour(field: str, domain: list[str]) -> alt.Color:
    """Return a colour for each name, in their order."""
    legend = alt.Legend(title=None, orient="top", columns=4)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=domain, range=COLOURS[: len(domain)]), legend=legend)


def rank_colour(field: str, number: int) -> alt.Color:
    """Return a colour for each rank; without a legend if there are many."""
    legend = alt.Legend(title=None, orient="right", labelFontSize=10) if number <= MANY_LINES else None
    return alt.Color(f"{field}:N", sort=None, scale=alt.Scale(range=COLOURS), legend=legend)


def cause_colour(domain: list[str]) -> alt.Color:
    """Return the colours of causes, in their order."""
    colours = [CAUSE_COLOURS.get(name, "#66c2a5") for name in domain]
    legend = alt.Legend(title=None, orient="right", symbolSize=70, labelFontSize=10)
    return alt.Color("cause:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)


def with_marks(chart: alt.Chart, runs: Sequence[RunFigures], *kinds: str) -> AnyChart:
    """Return a chart with rules at checkpoints, evaluations and restarts, if it shows one run."""
    marks = runs[0].marks() if len(runs) == 1 else []
    layers: list[alt.Chart] = []
    for kind in kinds:
        if rows := [mark for mark in marks if mark["mark"] == kind]:
            width, opacity, dash = _MARK_STROKES[kind]
            rule = alt.Chart(inline(rows)).mark_rule(
                color=MARK_COLOURS[kind], strokeDash=dash, strokeWidth=width, opacity=opacity
            )
            layers.append(rule.encode(x=x_axis(), tooltip=["mark:N", *tooltips()]))
    return alt.layer(*layers, chart)
