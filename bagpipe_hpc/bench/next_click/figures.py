"""The table of `bench next-click`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table
from bagpipe_hpc.bench.next_click.case import Comparison


def comparison_table(comparisons: Sequence[Comparison], title: str, ways: tuple[str, str]) -> Table:
    """Return the figures of all models, a line for each of the two ways to train one.

    Args:
        comparisons: The models.
        title: Of the table.
        ways: The names of `ours` and of `other`.
    """
    table = compact_table(title, "model", ("", "AUC", "grouped AUC", "hit rate @1", "log loss", "rows", "seconds"))
    for each in comparisons:
        for way, quality in zip(ways, (each.ours, each.other), strict=True):
            table.add_row(
                each.model if quality is each.ours else "",
                way,
                f"{quality.auc:.4f}",
                f"{quality.grouped_auc:.4f}",
                f"{quality.hit_rate:.4f}",
                f"{quality.log_loss:.4f}",
                f"{quality.rows:,}",
                f"{quality.seconds:.0f}",
            )
    return table
