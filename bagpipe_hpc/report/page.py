"""The report as one HTML page, which needs no network, as a picture, or as JSON."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from bagpipe_hpc.report.charts import pictures_of
from bagpipe_hpc.report.comparison import ComparedRow, settings_of, summaries_of
from bagpipe_hpc.report.encodings import HEIGHT, MARK_COLOURS, Picture
from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.key_figures import KeyFigure, key_figures
from bagpipe_hpc.report.run_directory import number_in
from bagpipe_hpc.report.thinning import MAX_POINTS
from bagpipe_hpc.report.traced import TracedPart
from bagpipe_hpc.version import __version__

PNG_WIDTH = 520


@dataclass(frozen=True)
class _ShownRun:
    """A run as the template shows it."""

    figures: RunFigures

    @property
    def name(self) -> str:
        return self.figures.run.name

    @property
    def state(self) -> str:
        return self.figures.run.state.value

    @cached_property
    def key_figures(self) -> list[KeyFigure]:
        return key_figures(self.figures)

    @property
    def figure_values(self) -> dict[str, str]:
        return {figure.name: figure.value for figure in self.key_figures}


class _Table(NamedTuple):
    title: str
    says: str
    rows: Sequence[ComparedRow]
    rest: Sequence[ComparedRow] = ()


def page_of(runs: Sequence[RunFigures], traces: Sequence[TracedPart], *, refresh_seconds: float = 0.0) -> str:
    """Return the report as an HTML page.

    Args:
        runs: The figures of each run, at least one.
        traces: What there is to show of traced runs.
        refresh_seconds: The page loads itself again after so many seconds; 0: it does not.
    Communication: none.
    """
    pictures = pictures_of(runs)
    shown = [_ShownRun(each) for each in runs]
    return rendered(
        "page.html.j2",
        pictures,
        title=" | ".join(run.name for run in shown),
        subtitle=_subtitle(runs),
        runs=shown,
        notes=_notes(runs),
        figure_names=list(dict.fromkeys(name for run in shown for name in run.figure_values)),
        has_minutes=all(each.minutes(0) is not None for each in runs),
        marks=_marks(runs),
        thinned=_thinned(runs),
        timelines=[
            {
                "title": f"Timeline of {trace.run_name}" if len(runs) > 1 else "Timeline",
                "says": trace.says,
                "png": base64.b64encode(trace.png).decode(),
                "rows": trace.rows,
            }
            for trace in traces
        ],
        tables=_tables(runs),
        footer=_footer(runs),
        refresh_seconds=json.dumps(refresh_seconds),
    )


def rendered(template: str, pictures: Sequence[Picture], **values: Any) -> str:
    """Return a page of charts.

    Args:
        template: The name of its template, which extends base.html.j2.
        pictures: The charts that the script of the page draws.
        values: What the template shows. All texts are escaped.
    """
    specs = json.dumps({each.key: _spec(each) for each in pictures}).replace("<", "\\u003c")
    page = _environment().get_template(template)
    return page.render(pictures=pictures, library=Markup(_library()), specs=Markup(specs), **values)


def picture_of(runs: Sequence[RunFigures]) -> bytes:
    """Return all charts as one PNG. Communication: none."""
    charts = [each.chart.properties(width=PNG_WIDTH, height=HEIGHT, title=each.title) for each in pictures_of(runs)]
    rows = [_independent(alt.hconcat(*charts[place : place + 2])) for place in range(0, len(charts), 2)]
    whole = _independent(alt.vconcat(*rows)).properties(title=" | ".join(each.run.name for each in runs), padding=12)
    png: bytes = vl_convert.vegalite_to_png(whole.to_dict(validate=False), scale=1.5)
    return png


def _independent(chart: Any) -> Any:
    return chart.resolve_scale(color="independent", strokeDash="independent")


def _spec(picture: Picture) -> dict[str, Any]:
    spec: dict[str, Any] = picture.chart.properties(width="container", height=HEIGHT).to_dict(validate=False)
    spec.pop("config", None)  # the page has one for its colours
    spec["usermeta"] = {"is_over_time": picture.is_over_time}
    return spec


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script. It is part of vl-convert; making it takes seconds."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("bagpipe_hpc.report", "")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def _subtitle(runs: Sequence[RunFigures]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs"
    run = runs[0].run
    starts = [line for line in run.figures if line.get("kind") == "start"]
    shape = starts[-1] if starts else run.summary
    counts = {role: shape[role] for role in ("trainers", "servers") if isinstance(shape.get(role), int)}
    ranks = [f"{count} {role if count != 1 else role.removesuffix('s')}" for role, count in counts.items()]
    model = run.summary.get("model") or run.settings.get("model.factory") or run.settings.get("model.name")
    mode = run.summary.get("mode") or run.settings.get("mode")
    hosts = sorted({str(line["host"]) for line in run.figures if "host" in line})
    where = "on " + (", ".join(hosts) if len(hosts) < 4 else f"{len(hosts)} hosts") if hosts else ""
    began = number_in(starts[0], "time") if starts else None
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(began)) if began else ""
    return ", ".join(str(part) for part in (model, mode, *ranks, where, when) if part)


def _notes(runs: Sequence[RunFigures]) -> list[str]:
    several = len(runs) > 1
    notes = []
    for each in runs:
        run, prefix = each.run, f"{each.run.name}: " if several else ""
        notes += [prefix + note for note in ([run.reason] if run.reason else []) + list(run.notes)]
        if run.state.value == "failed" and run.figures:
            notes.append(f"{prefix}the job is not running, and it has not come to its end: it was killed or has failed")
        if not run.figures:
            notes.append(f"{prefix}there is no figures.jsonl, so some charts are missing")
    return notes


def _marks(runs: Sequence[RunFigures]) -> list[tuple[str, str]]:
    present = {mark["mark"] for mark in runs[0].marks()} if len(runs) == 1 else set()
    return [(mark, colour) for mark, colour in MARK_COLOURS.items() if mark in present]


def _thinned(runs: Sequence[RunFigures]) -> str:
    parts = []
    if max(each.num_points for each in runs) > MAX_POINTS:
        parts.append(f"curves of more than {MAX_POINTS:,} points show the smallest and the largest value of each piece")
    if len(runs) == 1:
        parts += [f"too many {kind}s to mark" for kind in runs[0].unmarked()]
    return "; ".join(parts)


def _tables(runs: Sequence[RunFigures]) -> list[_Table]:
    found = [each.run for each in runs]
    first, rest = settings_of(found)
    tables = []
    if first or rest:
        says = "Settings that differ between the runs." if len(runs) > 1 else "Settings that differ from the default."
        tables.append(_Table("Settings", says, first, rest))
    if environment := _environments(runs):
        tables.append(_Table("Environment", "Versions and devices of the latest start.", environment))
    if summary := summaries_of(found):
        says = "summary.json" + (": what differs, and by how much from the first run." if len(runs) > 1 else "")
        tables.append(_Table("Summary", says, summary[:16], summary[16:]))
    return tables


def _environments(runs: Sequence[RunFigures]) -> list[ComparedRow]:
    columns = []
    for each in runs:
        starts = [line for line in each.run.figures if line.get("kind") == "start"]
        versions = starts[-1].get("versions") if starts else None
        column = (
            {str(name): str(value).partition(",")[0] for name, value in versions.items()}
            if isinstance(versions, dict)
            else {}
        )
        for name in ("devices", "exchange", "dense_backend", "threads_per_trainer"):
            if name in each.run.summary:
                value = each.run.summary[name]
                column[name.replace("_", " ")] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if hosts := sorted({str(line["host"]) for line in each.run.figures if "host" in line}):
            column["hosts"] = ", ".join(hosts)
        columns.append(column)
    names = dict.fromkeys(name for column in columns for name in column)
    return [ComparedRow(name, tuple(column.get(name, "-") for column in columns)) for name in names]


def _footer(runs: Sequence[RunFigures]) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"bagpipe_hpc {__version__}, {now}: " + ", ".join(str(each.run.path.resolve()) for each in runs)
