"""`bagpipe report`: show what a traced run did, as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from bagpipe_hpc.timeline.breakdown import Activity
    from bagpipe_hpc.timeline.tracks import Timeline

DRAWN_ITERATIONS = 4


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory of a job that ran with --trace.")],
    iterations: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Iterations A to B - 1 [default: all in the table; the middle 4 in the picture]."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Picture to write: .png, .svg or .pdf [default: RUN_DIR/timeline.png]."),
    ] = None,
) -> None:
    """Show where the time of a traced run went, and draw its timeline."""
    from bagpipe_hpc.errors import TraceError
    from bagpipe_hpc.runtime.console import open_console
    from bagpipe_hpc.timeline.breakdown import break_down
    from bagpipe_hpc.timeline.merge import find_trace
    from bagpipe_hpc.timeline.picture import draw_timeline
    from bagpipe_hpc.timeline.tracks import read_timeline
    from bagpipe_hpc.trace import ALL_ITERATIONS, parse_iterations

    wanted = parse_iterations(iterations) if iterations else ALL_ITERATIONS
    picture = output or run_dir / "timeline.png"
    try:
        path = find_trace(run_dir)
        timeline = read_timeline(path)
        chosen = timeline.choose(wanted)
        draw_timeline(timeline, chosen if iterations else timeline.middle(DRAWN_ITERATIONS), picture)
    except OSError as error:
        raise TraceError(
            f"{error.filename or picture} cannot be written: {error.strerror}; free space, fix permissions or choose "
            "another picture with -o"
        ) from None
    console = open_console()
    console.print(_table(break_down(timeline, chosen), chosen))
    for line in (*_warnings(timeline), f"picture {picture}", f"trace {path} (open in https://ui.perfetto.dev)"):
        console.print(line, highlight=False, soft_wrap=True)


def _table(activities_by_thread: dict[tuple[str, str], list[Activity]], iterations: range) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"iterations {iterations.start:,} to {iterations.stop - 1:,}; all ranks of a role together"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("thread")
    table.add_column("activity")
    for name in ("share", "ms/iteration", "median"):
        table.add_column(name, justify="right")
    for (role, thread), activities in activities_by_thread.items():
        title = f"{role} {thread}"
        for activity in activities:
            median = "-" if activity.median is None else f"{activity.median:.3f}"
            table.add_row(title, activity.name, f"{activity.share:.1%}", f"{activity.mean:.3f}", median)
            title = ""
        table.add_section()
    return table


def _warnings(timeline: Timeline) -> list[str]:
    warnings = []
    if timeline.missing_ranks:
        ranks = ", ".join(map(str, timeline.missing_ranks))
        warnings.append(f"warning: no trace of rank {ranks}: the run failed, or not all hosts share its directory")
    if timeline.num_dropped:
        warnings.append(
            f"warning: the trace is full and lacks {timeline.num_dropped:,} spans; trace less with --trace-iterations"
        )
    if timeline.clock_error > 0:
        warnings.append(f"note: times of different hosts were exact to {timeline.clock_error:.3f} ms at the start")
    return warnings
