"""The charts of a data set: what the lookahead window and the size of the caches depend on."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from bagpipe_hpc.data.inspect import DatasetReport, TableReport
from bagpipe_hpc.data.inspect_reuse import REUSE_SHARES, AccessReport
from bagpipe_hpc.report.encodings import COLOURS, Picture, inline, si_axis

MAX_TABLES = 12  # that a chart shows


def pictures_of_dataset(report: DatasetReport) -> list[Picture]:
    """Return the charts. Those without values are left out."""
    accesses = report.accesses
    found = [] if accesses is None else [_reuses(accesses), _slots(accesses), _batches(accesses), _skew(accesses)]
    return [picture for picture in (*found, _tables(report.tables)) if picture is not None]


def _over_windows(accesses: AccessReport, y: alt.Y) -> alt.Chart | None:
    rows = [
        {"B": f"{each.batch_size:,}", "window": need.window, "share": need.share, "rows": need.rows}
        for each in accesses.reuses
        for need in each.windows
    ]
    if not rows:
        return None
    names = [f"{each.batch_size:,}" for each in accesses.reuses if each.windows]
    colour = alt.Color("B:N", sort=names, scale=alt.Scale(range=COLOURS), legend=alt.Legend(title="B", orient="top"))
    x = alt.X(
        "window:Q", title="lookahead window L, in batches", scale=alt.Scale(type="log"), axis=alt.Axis(grid=False)
    )
    tips = [
        alt.Tooltip("B:N"),
        alt.Tooltip("window:Q", title="L", format=","),
        alt.Tooltip("share:Q", title="uses within L", format=".1%"),
        alt.Tooltip("rows:Q", title="slots", format=","),
    ]
    chart = alt.Chart(inline(rows)).mark_line(strokeWidth=1.6, point=True)
    return chart.encode(x=x, y=y, color=colour, tooltip=tips)  # type: ignore[no-any-return]


def _reuses(accesses: AccessReport) -> Picture | None:
    y = alt.Y("share:Q", title="of all uses again", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1]))
    lines = _over_windows(accesses, y)
    if lines is None:
        return None
    targets = alt.Chart(inline([{"share": share} for share in REUSE_SHARES]))
    rules = targets.mark_rule(color="#d62728", strokeDash=[2, 3], opacity=0.7).encode(y="share:Q")
    says = "The part of all uses of a row again that come at most L batches after the use before; red: 90 % and 99 %."
    return Picture("reuses", "How soon rows are used again", says, alt.layer(rules, lines))


def _slots(accesses: AccessReport) -> Picture | None:
    chart = _over_windows(accesses, alt.Y("rows:Q", title="slots", axis=si_axis()))
    says = "Slots of all caches together, if each row stays between two uses that are at most L batches apart."
    return None if chart is None else Picture("slots", "What a window needs of the caches", says, chart)


def _batches(accesses: AccessReport) -> Picture | None:
    rows = [
        {"B": f"{each.batch_size:,}", "what": what, "rows": rows}
        for each in accesses.reuses
        for what, rows in (("mean", each.unique_rows), ("most", each.most_unique_rows))
    ]
    names = [f"{each.batch_size:,}" for each in accesses.reuses]
    colour = alt.Color("what:N", scale=alt.Scale(range=COLOURS), legend=alt.Legend(title=None, orient="top"))
    chart = alt.Chart(inline(rows)).mark_bar().encode(
        x=alt.X("rows:Q", title="rows", axis=si_axis()),
        y=alt.Y("B:N", sort=names, title="B"),
        yOffset="what:N",
        color=colour,
        tooltip=["B:N", "what:N", alt.Tooltip("rows:Q", format=",.0f")],
    )  # fmt: skip
    return Picture("batches", "Different rows of a batch", "By the batch size B, over all tables.", chart)


def _skew(accesses: AccessReport) -> Picture | None:
    if not accesses.skew:
        return None
    rows = [{"part": part, "share": share} for part, share in accesses.skew]
    part_axis = alt.Axis(format="~%", tickCount=6, grid=False)
    chart = alt.Chart(inline(rows)).mark_line(strokeWidth=1.6, color=COLOURS[0], point=True)
    chart = chart.encode(
        x=alt.X("part:Q", title="most used part of the rows", scale=alt.Scale(type="log"), axis=part_axis),
        y=alt.Y("share:Q", title="of all accesses", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])),
        tooltip=[
            alt.Tooltip("part:Q", title="rows", format=".3%"),
            alt.Tooltip("share:Q", title="accesses", format=".1%"),
        ],
    )
    return Picture("skew", "Skew", "How many of all accesses go to the most used rows, of those that occur.", chart)


def _tables(tables: Sequence[TableReport]) -> Picture | None:
    largest = sorted(tables, key=lambda each: -each.num_distinct)[:MAX_TABLES]
    rows = [
        {"table": each.name, "rows": each.num_distinct, "hot": each.hot_share, "accesses": each.num_accesses}
        for each in largest
        if each.num_distinct
    ]
    if not rows:
        return None
    chart = alt.Chart(inline(rows)).mark_bar(color=COLOURS[0]).encode(
        x=alt.X("rows:Q", title="rows", axis=si_axis(), scale=alt.Scale(type="symlog")),
        y=alt.Y("table:N", sort=None, title=None),
        tooltip=["table:N", alt.Tooltip("rows:Q", format=","), alt.Tooltip("accesses:Q", format=","),
                 alt.Tooltip("hot:Q", title="on the hottest 1 %", format=".1%")],
    )  # fmt: skip
    says = "Different rows that occur, by feature" + (
        f"; the {MAX_TABLES} largest." if len(tables) > MAX_TABLES else "."
    )
    return Picture("tables", "Rows of features", says, chart)
