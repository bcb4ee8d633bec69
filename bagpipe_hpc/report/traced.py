"""What a report shows of a traced run: the timeline, and where the time of each thread went."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bagpipe_hpc.timeline.breakdown import Activity, break_down
from bagpipe_hpc.timeline.merge import find_trace
from bagpipe_hpc.timeline.picture import draw_timeline
from bagpipe_hpc.timeline.tracks import Timeline, read_timeline
from bagpipe_hpc.trace import ALL_ITERATIONS, parse_iterations

DRAWN_ITERATIONS = 4


@dataclass(frozen=True)
class TracedPart:
    """A traced run, as a report shows it.

    Args:
        run_name: The name of the run.
        trace: The file of the trace.
        timeline: Its content.
        chosen: The iterations of the table.
        drawn: The iterations of the picture.
        png: The picture.
    """

    run_name: str
    trace: Path
    timeline: Timeline
    chosen: range
    drawn: range
    png: bytes

    @property
    def activities(self) -> dict[tuple[str, str], list[Activity]]:
        """The activities by role and thread."""
        return break_down(self.timeline, self.chosen)

    @property
    def says(self) -> str:
        """What the picture shows, and what is missing."""
        return " ".join([f"Iterations {self.drawn.start:,} to {self.drawn.stop - 1:,}.", *self.warnings])

    @property
    def warnings(self) -> list[str]:
        """What the user must know about the trace, in words."""
        found, timeline = [], self.timeline
        if timeline.missing_ranks:
            ranks = ", ".join(map(str, timeline.missing_ranks))
            found.append(f"warning: no trace of rank {ranks}: the run failed, or not all hosts share its directory")
        if timeline.num_dropped:
            dropped = f"{timeline.num_dropped:,}"
            found.append(f"warning: the trace is full and lacks {dropped} spans; trace less with --trace-iterations")
        if timeline.clock_error > 0:
            found.append(f"note: times of different hosts were exact to {timeline.clock_error:.3f} ms at the start")
        return found

    @property
    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The table: thread, activity, share, ms per iteration, median."""
        rows = []
        for (role, thread), activities in self.activities.items():
            title = f"{role} {thread}"
            for each in activities:
                median = "-" if each.median is None else f"{each.median:.3f}"
                rows.append((title, each.name, f"{each.share:.1%}", f"{each.mean:.3f}", median))
                title = ""
        return rows


def traced_part(run_path: Path, run_name: str, iterations: str | None) -> TracedPart:
    """Read the trace of a run, and draw its timeline.

    Args:
        run_path: The run directory.
        run_name: The name of the run.
        iterations: `A:B`; None: all in the table, the middle ones in the picture.
    Raises:
        TraceError: the run has no trace, or the iterations are wrong.
    Communication: none.
    """
    wanted = parse_iterations(iterations) if iterations else ALL_ITERATIONS
    trace = find_trace(run_path)
    timeline = read_timeline(trace)
    chosen = timeline.choose(wanted)
    drawn = chosen if iterations else timeline.middle(DRAWN_ITERATIONS)
    with tempfile.TemporaryDirectory() as directory:
        picture = Path(directory) / "timeline.png"
        draw_timeline(timeline, drawn, picture)
        png = picture.read_bytes()
    return TracedPart(run_name, trace, timeline, chosen, drawn, png)
