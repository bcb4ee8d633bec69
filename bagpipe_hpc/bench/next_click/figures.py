"""The table of `bench next-click`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.bench.next_click.case import Comparison


def comparison_table(comparisons: Sequence[Comparison], title: str, other_name: str) -> Table:
    """Return the figures of all models, each beside the other way to train it."""
    name = other_name
    heads = ("AUC", name, "difference", "grouped AUC", name, "hit rate @1", name, "rows", name, "seconds", name)
    table = compact_table(title, "model", heads)
    for each in comparisons:
        ours, other = each.ours, each.other
        table.add_row(
            each.model,
            f"{ours.auc:.4f}",
            f"{other.auc:.4f}",
            f"{ours.auc - other.auc:+.4f}",
            f"{ours.grouped_auc:.4f}",
            f"{other.grouped_auc:.4f}",
            f"{ours.hit_rate:.4f}",
            f"{other.hit_rate:.4f}",
            f"{ours.rows:,}",
            f"{other.rows:,}",
            f"{ours.seconds:.0f}",
            f"{other.seconds:.0f}",
        )
    return table
