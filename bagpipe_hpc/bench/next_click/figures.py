"""The table of `bench next-click`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.bench.next_click.case import Comparison


def comparison_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """Return the figures of all models, each beside plain PyTorch."""
    heads = ("AUC", "plain", "difference", "grouped AUC", "plain", "hit rate @1", "plain", "seconds", "plain")
    table = compact_table(title, "model", heads)
    for each in comparisons:
        ours, plain = each.ours, each.plain
        table.add_row(
            each.model,
            f"{ours.auc:.4f}",
            f"{plain.auc:.4f}",
            f"{ours.auc - plain.auc:+.4f}",
            f"{ours.grouped_auc:.4f}",
            f"{plain.grouped_auc:.4f}",
            f"{ours.hit_rate:.4f}",
            f"{plain.hit_rate:.4f}",
            f"{ours.seconds:.0f}",
            f"{plain.seconds:.0f}",
        )
    return table
