"""Charts that compare several runs: bars side by side."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from bagpipe_hpc.report.encodings import CAUSE_ORDER, Picture, Row, cause_colour, inline, run_colour, si_axis
from bagpipe_hpc.report.figures import RunFigures


def causes(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    rows = [row for each in runs for row in each.mean_causes()]
    if not rows:
        return None
    present = {row["cause"] for row in rows}
    domain = [name for name in CAUSE_ORDER if name in present] + sorted(present - set(CAUSE_ORDER))
    numbered = [{**row, "order": domain.index(row["cause"])} for row in rows]
    x, tip = alt.X("ms:Q", title="ms per iteration"), alt.Tooltip("ms:Q", format=",.3f")
    chart = _bars_by_run(runs, numbered, "cause", x, cause_colour(domain), tip)
    says = "Mean time of an iteration of a trainer over the whole run. Grey is waiting; what computes is orange."
    return Picture("causes", "Time per iteration by cause", says, chart)


def _bars_by_run(
    runs: Sequence[RunFigures], rows: Sequence[Row], field: str, x: alt.X, colour: alt.Color, tip: alt.Tooltip
) -> alt.Chart:
    y = alt.Y("run:N", title=None, sort=[each.run.name for each in runs], axis=alt.Axis(labelLimit=150))
    bars = alt.Chart(inline(rows)).mark_bar()
    encoded: alt.Chart = bars.encode(x=x, y=y, color=colour, order="order:Q", tooltip=["run:N", f"{field}:N", tip])
    return encoded


def moves(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    return _grouped(
        runs,
        [row for each in runs for row in each.mean_moves()],
        field="move",
        value="rows",
        picture=("moves", "Rows moved per iteration", "Rows of all trainers; the axis is logarithmic."),
    )


def paths(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
    return _grouped(
        runs,
        [row for each in runs for row in each.paths()],
        field="path",
        value="bytes",
        picture=("paths", "Bytes by path", "Bytes of all ranks together per iteration; the axis is logarithmic."),
    )


def memory(runs: Sequence[RunFigures]) -> Picture | None:
    """Return the chart, or None if there is nothing to draw."""
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
        y=alt.Y("bytes:Q", title="bytes", axis=si_axis()),
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
    chart = alt.Chart(inline(shown)).mark_bar()
    encoded = chart.encode(
        x=alt.X(f"{field}:N", title=None, sort=None, axis=alt.Axis(labelAngle=0, labelLimit=110)),
        xOffset=alt.XOffset("run:N", sort=[each.run.name for each in runs]),
        y=y or alt.Y(f"{value}:Q", title=value, scale=alt.Scale(type="symlog"), axis=_byte_axis(value)),
        color=run_colour(runs),
        tooltip=["run:N", f"{field}:N", alt.Tooltip(f"{value}:Q", format=",.4~s")],
    )
    return Picture(key, title, says, encoded)


def _byte_axis(value: str) -> alt.Axis:
    return si_axis(values=[10.0**power for power in range(0, 13, 1 if value == "rows" else 2)])
