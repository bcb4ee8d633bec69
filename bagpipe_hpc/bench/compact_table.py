"""The look of tables with many columns of figures."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table


def compact_table(title: str, first: str, figures: Iterable[str]) -> Table:
    """Return a table without rows.

    Args:
        title: Title of the table.
        first: Head of the first column, which has names.
        figures: Heads of the other columns.
    """
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for head in figures:
        table.add_column(head, justify="right", no_wrap=True)
    return table
