"""The figures of a run as one tree of JSON values: what the charts of a page show. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bagpipe_hpc.report.figures import RunFigures
from bagpipe_hpc.report.key_figures import key_figures


def tree_of(figures: RunFigures) -> dict[str, Any]:
    """Return the figures of a run as JSON values."""
    run = figures.run
    return {
        "run": run.name,
        "path": str(run.path.resolve()),
        "state": run.state.value,
        "reason": run.reason,
        "notes": list(run.notes),
        "key_figures": [asdict(figure) for figure in key_figures(figures)],
        "loss": figures.curve("loss"),
        "samples_per_second": figures.curve("samples_per_second"),
        "evaluations": figures.evaluations(),
        "milliseconds_by_cause": figures.causes(),
        "milliseconds_meanwhile": figures.causes(overlapped=True),
        "rows_per_iteration": figures.moves(),
        "cached_rows": figures.cached_rows(),
        "bytes_per_iteration": figures.paths(),
        "balance": figures.balance(),
        "memory": figures.memory(),
        "checkpoints": figures.checkpoints(),
        "marks": figures.marks(),
        "settings": dict(run.settings),
        "summary": dict(run.summary),
    }
