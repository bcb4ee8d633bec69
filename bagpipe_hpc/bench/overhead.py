"""The time of an iteration of a trainer that computes and moves almost nothing, and what waiting costs.

Two samples per trainer and rows of four columns take almost no time in kernels and on links. What remains is the time
of Python and of its calls into torch, numpy and MPI. The benchmark counts the CPU time of each thread without its
polling while it waits, so other processes on the cores have little influence. The same model is then trained in plain
PyTorch: the difference is what the package adds to the main thread.

In the middle of the job, trainer 0 pauses, so everything else waits: the other trainers for its gradients, the servers
for requests, the oracle for the next plan. A thread that waits should not take a core from others. The second table
shows what share of a core each thread takes meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from bagpipe_hpc.errors import ConfigError

ASLEEP = 0.0005  # share of a core that is shown as 0.0 %
# Seconds. The processor time of threads is counted in hundredths of a second.
LEAST_PAUSE, LONGEST_PAUSE = 1.0, 3600.0


def check_pause(seconds: float) -> None:
    """Raise ConfigError unless trainer 0 can pause for so many seconds."""
    if seconds and not LEAST_PAUSE <= seconds <= LONGEST_PAUSE:
        raise ConfigError(f"--pause is {seconds:g}; give 0, or from {LEAST_PAUSE:g} to {LONGEST_PAUSE:g} seconds")


def length_settings(iterations: int) -> list[str]:
    """Return the settings that let a job train exactly so many iterations, however few samples there are."""
    return [f"training.iterations={iterations}", "training.epochs=1000000000"]


def tiny_settings(num_ranks: int) -> list[str]:
    """Return the settings of a job with next to nothing to do: one server, the other ranks are trainers."""
    return [
        f"training.batch_size={2 * max(1, num_ranks - 2)}",
        "training.threads=1",
        "evaluation.enabled=false",
        "checkpoint.enabled=false",
        "model.embedding_dim=4",
        "model.bottom_mlp=[4]",
        "model.top_mlp=[4]",
    ]


@dataclass(frozen=True)
class RankIdle:
    """What the threads of a rank have computed while trainer 0 paused.

    Args:
        role: The role of the rank.
        shares: The share of a core of each thread, by name.
    """

    role: str
    shares: dict[str, float]


def idle_by_role(ranks: Iterable[RankIdle]) -> dict[str, dict[str, float]]:
    """Return the largest share of a core by role and name of the thread."""
    found: dict[str, dict[str, float]] = {}
    for rank in ranks:
        largest = found.setdefault(rank.role, {})
        for thread, share in rank.shares.items():
            largest[thread] = max(share, largest.get(thread, 0.0))
    return found


def idle_table(idle: dict[str, dict[str, float]], seconds: float) -> Table:
    """Return a table of what each thread takes of a core while it waits.

    Args:
        idle: The largest share of a core by role and thread.
        seconds: How long trainer 0 paused.
    """
    table = Table(title=f"while trainer 0 paused for {seconds:g} s", box=SIMPLE)
    table.add_column("role")
    table.add_column("thread")
    table.add_column("% of a core", justify="right")
    for role, shares in idle.items():
        sleepers = [thread for thread, share in shares.items() if share < ASLEEP]
        for thread, share in sorted(shares.items(), key=lambda item: -item[1]):
            if thread not in sleepers:
                table.add_row(role, thread, f"{100 * share:.1f}")
        if sleepers:
            table.add_row(role, f"{len(sleepers)} {'others' if len(sleepers) < len(shares) else 'threads'}", "0.0")
    return table


def read_summary(run_path: Path) -> dict[str, Any]:
    """Return the summary that the job has written."""
    summary: dict[str, Any] = json.loads((run_path / "summary.json").read_text("utf-8"))
    return summary


def overhead_figures(summary: dict[str, Any], plain: float, ranks: Iterable[RankIdle], pause: float) -> dict[str, Any]:
    """Return all figures.

    Args:
        summary: The summary of the job.
        plain: The CPU time of an iteration of the same model in plain PyTorch, in microseconds.
        ranks: What the threads of each rank have computed during the pause.
        pause: How long it was, in seconds.
    """
    return {
        "trainers": summary["trainers"],
        "iterations": summary["iterations"],
        "dense_backend": summary["dense_backend"],
        "microseconds_of_work": {thread: 1e3 * ms for thread, ms in summary["working_milliseconds"].items()},
        "microseconds_of_plain_pytorch": plain,
        "microseconds_per_iteration": 1e3 * summary["steady_milliseconds"],
        "pause_seconds": pause,
        "idle": idle_by_role(ranks),  # shares of a core
    }


def overhead_table(figures: dict[str, Any]) -> Table:
    """Return a table of the microseconds of work per iteration of a trainer, by thread.

    Args:
        figures: What `overhead_figures` returns.
    """
    title = f"T = {figures['trainers']}, medians of {figures['iterations']:,} iterations"
    table = Table(title=title, box=SIMPLE)
    table.add_column("thread of a trainer")
    table.add_column("µs per iteration", justify="right")
    for thread, microseconds in figures["microseconds_of_work"].items():
        table.add_row(f"{thread}, CPU time without polling", f"{microseconds:,.0f}")
    plain = figures["microseconds_of_plain_pytorch"]
    table.add_section()
    table.add_row("plain PyTorch, the same model", f"{plain:,.0f}")
    table.add_row("what main adds to it", f"{figures['microseconds_of_work']['main'] - plain:,.0f}")
    table.add_section()
    table.add_row("from iteration to iteration", f"{figures['microseconds_per_iteration']:,.0f}")
    return table
