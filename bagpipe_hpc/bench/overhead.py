"""What an iteration costs a trainer before anything is computed or moved.

Two samples per trainer and rows of four columns take next to no time in kernels and on links; what is left is Python
and the calls it makes into torch, numpy and MPI. It is counted in CPU time of each thread, less polling while it waits
(transport/polling.py), so that other processes on the cores hardly change it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


def tiny_settings(num_ranks: int, iterations: int) -> list[str]:
    """Settings of the job: one server, the rest trainers."""
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
    """What the job left behind."""
    summary: dict[str, Any] = json.loads((run_path / "summary.json").read_text("utf-8"))
    return summary


def overhead_table(summary: dict[str, Any]) -> Table:
    """Microseconds of work per iteration, by thread."""
    table = Table(title=f"{summary['trainers']} trainer(s), {summary['iterations']:,} iterations", box=SIMPLE)
    table.add_column("thread")
    table.add_column("µs per iteration", justify="right")
    for thread, milliseconds in summary["working_milliseconds"].items():
        table.add_row(thread, f"{1e3 * milliseconds:,.0f}")
    table.add_row("iteration, wall", f"{1e3 * summary['steady_milliseconds']:,.0f}")
    return table
