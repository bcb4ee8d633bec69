"""Charts of one run or of several: loss, metrics, speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bagpipe_hpc.report.encodings import (
    ALL_MARKS,
    COLOURS,
    AnyChart,
    Picture,
    inline,
    run_colour,
    si_axis,
    tooltips,
    with_marks,
    x_axis,
)
from bagpipe_hpc.report.figures import RunFigures


def _line(runs: Sequence[RunFigures], name: str, title: str, axis: alt.Axis) -> AnyChart | None:
    rows = [row for each in runs for row in each.curve(name)]
    if not rows:
        return None
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=name != "loss"), axis=axis)
    tip = alt.Tooltip("value:Q", title=title, format=",.5~g")
    lines = alt.Chart(inline(rows)).mark_line(strokeWidth=1.6, point=len(rows) == len(runs))
    return with_marks(lines.encode(x=x_axis(), y=y, color=run_colour(runs), tooltip=tooltips(tip)), runs, *ALL_MARKS)


def loss(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    chart = _line(runs, "loss", "loss", alt.Axis(format="~g"))
    says = "Mean training loss of each 20 iterations."
    return None if chart is None else Picture("loss", "Training loss", says, chart, is_over_time=True)


def speed(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    chart = _line(runs, "samples_per_second", "samples/s", si_axis())
    says = "Samples per second of each 20 iterations, evaluations included. Dips belong to evaluations and checkpoints."
    return None if chart is None else Picture("speed", "Speed", says, chart, is_over_time=True)


def metrics(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
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
        base = alt.Chart(inline([row for row in rows if row["metric"] == name]))
        lines = base.mark_line(point=alt.OverlayMarkDef(size=36), strokeWidth=1.6)
        charts.append(lines.encode(x=x_axis(), y=y, color=_colour_of_metric(runs, name, chosen), tooltip=tooltips(tip)))
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
        return run_colour(runs)
    return alt.value(COLOURS[chosen.index(name)])
