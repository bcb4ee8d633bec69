"""`bagpipe report`: pictures of runs, on one page."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bagpipe_hpc.cli.pages import naming, require_libraries, write_page
from bagpipe_hpc.cli.printed_json import AsJson

if TYPE_CHECKING:
    from bagpipe_hpc.report.figures import RunFigures
    from bagpipe_hpc.report.traced import TracedPart

SECONDS_PER_PAGE = 10.0


class FormatChoice(StrEnum):
    """Values of --format."""

    HTML = "html"
    PNG = "png"
    JSON = "json"


def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Run directories; several are compared.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write [default: report.html in RUN_DIR; with several, comparison.html in this directory].",
        ),
    ] = None,
    form: Annotated[
        FormatChoice | None,
        typer.Option("--format", help="Format of the file [default: that of the name of --output, else html]."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Write the page again and again while a job runs; Ctrl-C ends this.")
    ] = False,
    every: Annotated[float, typer.Option(min=1.0, help="With --follow: seconds from page to page.")] = SECONDS_PER_PAGE,
    iterations: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Iterations A to B - 1 of the trace [default: all in the table; the middle 4 in the picture].",
        ),
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the timeline of a traced run: .png, .svg or .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show runs as pictures: loss, metrics, speed, time by cause, rows, bytes, balance, memory, and what differs."""
    wanted = _wanted(run_dirs, output, form, iterations, timeline)
    if as_json:
        print(_json_of(wanted.read()[0]), end="")
        return
    wanted.require_libraries()
    if follow:
        _follow(wanted, every)
    else:
        runs, traces = wanted.read()
        wanted.write(runs, traces)
        wanted.show(runs, traces)


@dataclass(frozen=True)
class _Wanted:
    """What the user asks for."""

    paths: Sequence[Path]
    names: Sequence[str]
    output: Path
    form: FormatChoice
    iterations: str | None
    timeline: Path | None

    def require_libraries(self) -> None:
        """Raises PlatformError: a library is missing."""
        if self.form is not FormatChoice.JSON:
            require_libraries("bagpipe report", "take --format json")

    def read(self) -> tuple[list[RunFigures], list[TracedPart]]:
        from bagpipe_hpc.report.figures import RunFigures
        from bagpipe_hpc.report.run_directory import State, read_run
        from bagpipe_hpc.report.traced import traced_part

        runs = [RunFigures(read_run(path, name)) for path, name in zip(self.paths, self.names, strict=True)]
        # Ranks write their traces when they end, so the trace of a running job is that of an earlier start.
        is_asked_for = self.iterations is not None or self.timeline is not None
        traces = [
            traced_part(each.run.path, each.run.name, self.iterations)
            for each in runs
            if is_asked_for or (each.run.has_trace and each.run.state is not State.RUNNING)
        ]
        return runs, traces

    def write(self, runs: Sequence[RunFigures], traces: Sequence[TracedPart], refresh_seconds: float = 0.0) -> None:
        write_page(self.output, self._content(runs, traces, refresh_seconds), "-o")
        if self.timeline is not None:
            from bagpipe_hpc.timeline.picture import draw_timeline

            for trace in traces[:1]:
                with naming(self.timeline, "choose another --timeline"):
                    draw_timeline(trace.timeline, trace.drawn, self.timeline)

    def _content(self, runs: Sequence[RunFigures], traces: Sequence[TracedPart], refresh_seconds: float) -> bytes:
        if self.form is FormatChoice.JSON:
            return _json_of(runs).encode()
        from bagpipe_hpc.report.page import page_of, picture_of

        if self.form is FormatChoice.PNG:
            return picture_of(runs)
        return page_of(runs, traces, refresh_seconds=refresh_seconds).encode()

    def show(self, runs: Sequence[RunFigures], traces: Sequence[TracedPart]) -> None:
        """Print the key figures, the table of a traced run, and where the files are."""
        from bagpipe_hpc.report.key_figures import key_figures
        from bagpipe_hpc.runtime.console import open_console

        console = open_console()
        for each in runs:
            figures = [f"{figure.name} {figure.value}" for figure in key_figures(each)]
            state = f"{each.run.name}: {each.run.state.value}"
            console.print(", ".join([state, *figures]), highlight=False, soft_wrap=True)
        for trace in traces:
            console.print(_table(trace))
            for line in (*trace.warnings, f"trace {trace.trace} (open in https://ui.perfetto.dev)"):
                console.print(line, highlight=False, soft_wrap=True)
        if self.timeline is not None:
            console.print(f"picture {self.timeline}", highlight=False, soft_wrap=True)
        what = {"html": "page", "png": "picture", "json": "figures"}[self.form.value]
        console.print(f"{what} {self.output}", highlight=False, soft_wrap=True)


def _wanted(
    run_dirs: Sequence[Path],
    output: Path | None,
    form: FormatChoice | None,
    iterations: str | None,
    timeline: Path | None,
) -> _Wanted:
    """Check the arguments.

    Raises:
        ConfigError: they contradict each other.
    """
    from bagpipe_hpc.errors import ConfigError
    from bagpipe_hpc.report.run_directory import names_of

    paths = list({path.resolve(): path for path in run_dirs}.values())
    if len(paths) > 1 and timeline is not None:
        raise ConfigError("--timeline draws one run; give one RUN_DIR")
    if form is None:
        suffix = output.suffix.lower().removeprefix(".") if output else "html"
        if suffix not in list(FormatChoice):
            raise ConfigError(f"-o {output}: end the name in .html, .png or .json, or say --format")
        form = FormatChoice(suffix)
    default = paths[0] / f"report.{form}" if len(paths) == 1 else Path(f"comparison.{form}")
    return _Wanted(paths, names_of(paths), output or default, form, iterations, timeline)


def _follow(wanted: _Wanted, seconds: float) -> None:
    """Write the page until no job runs any more."""
    from bagpipe_hpc.report.run_directory import State

    try:
        is_first = True
        while True:
            runs, traces = wanted.read()
            is_running = any(each.run.state is State.RUNNING for each in runs)
            wanted.write(runs, traces, refresh_seconds=seconds if is_running else 0.0)
            if not is_running:
                break
            if is_first:
                print(f"page {wanted.output}, every {seconds:g} s while the job runs; Ctrl-C ends this", flush=True)
            is_first = False
            print(_progress_of(runs), flush=True)
            time.sleep(seconds)
        wanted.show(runs, traces)
    except KeyboardInterrupt:
        wanted.write(*wanted.read())  # a page that does not load itself any more
        print(f"page {wanted.output}")


def _progress_of(runs: Sequence[RunFigures]) -> str:
    from bagpipe_hpc.report.key_figures import key_figures

    parts = []
    for each in runs:
        figures = {figure.name: f"{figure.value} {figure.note}".strip() for figure in key_figures(each)}
        parts.append(f"{each.run.name}: {each.run.state.value}, iterations {figures.get('iterations', '0')}")
    return "; ".join(parts)


def _json_of(runs: Sequence[RunFigures]) -> str:
    from bagpipe_hpc.bounded_json import finite
    from bagpipe_hpc.report.as_json import tree_of

    tree: Any = finite([tree_of(each) for each in runs])
    return json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _table(trace: TracedPart) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    chosen = trace.chosen
    title = f"iterations {chosen.start:,} to {chosen.stop - 1:,}; all ranks of a role together"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("thread")
    table.add_column("activity")
    for name in ("share", "ms/iteration", "median"):
        table.add_column(name, justify="right")
    for row in trace.rows:
        if row[0] and table.row_count:
            table.add_section()
        table.add_row(*row)
    return table
