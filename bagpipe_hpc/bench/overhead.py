"""The time of an iteration of a trainer that computes and moves almost nothing.

Two samples per trainer and rows of four columns take almost no time in kernels and on links. What remains is the time
of Python and of its calls into torch, numpy and MPI. The benchmark counts the CPU time of each thread without its
polling while it waits, so other processes on the cores have little influence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


def tiny_settings(num_ranks: int, iterations: int) -> list[str]:
    """Return the settings of the job: one server, the other ranks are trainers."""
    return [
        f"training.batch_size={2 * max(1, num_ranks - 2)}",
        f"training.iterations={iterations}",
        "training.threads=1",
        "evaluation.enabled=false",
        "checkpoint.enabled=false",
        "model.embedding_dim=4",
        "model.bottom_mlp=[4]",
        "model.top_mlp=[4]",
    ]


def read_summary(run_path: Path) -> dict[str, Any]:
    """Return the summary that the job has written."""
    summary: dict[str, Any] = json.loads((run_path / "summary.json").read_text("utf-8"))
    return summary


def overhead_table(summary: dict[str, Any]) -> Table:
    """Return a table of the microseconds of work per iteration, by thread."""
    table = Table(title=f"{summary['trainers']} trainer(s), {summary['iterations']:,} iterations", box=SIMPLE)
    table.add_column("thread")
    table.add_column("µs per iteration", justify="right")
    for thread, milliseconds in summary["working_milliseconds"].items():
        table.add_row(thread, f"{1e3 * milliseconds:,.0f}")
    table.add_row("iteration, wall", f"{1e3 * summary['steady_milliseconds']:,.0f}")
    return table
