"""What `bagpipe checkpoint ids` shows of dynamic tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from rich.table import Table

from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.lookahead.dynamic_rows import DynamicState
from bagpipe_hpc.lookahead.id_map import IdState
from bagpipe_hpc.runtime.console import open_console

_LINES = 1 << 16


def write_ids(state: IdState, default_rows: int, output: TextIO) -> None:
    """Write one line per id, the id with the oldest last use first: id, row, uses, iteration of the last use.

    Args:
        state: The ids with rows of a table.
        default_rows: The number of default rows, which come before those of ids.
        output: Where the lines go.
    """
    output.write("id,row,uses,last_use\n")
    for start in range(0, len(state.ids), _LINES):
        part = slice(start, start + _LINES)
        columns = (state.ids[part], state.rows[part] + default_rows, state.uses[part], state.last[part])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        output.write("".join(f"{key},{row},{uses},{last}\n" for key, row, uses, last in rows))


def tables_as_json(tables: Mapping[str, tuple[DynamicState, DynamicSchema]]) -> dict[str, Any]:
    """Return what `show_tables` prints, as JSON values by the name of the table."""
    return {
        name: {
            "capacity": rules.capacity,
            "ids": len(state.live.ids),
            "rows_left": len(state.live.freed),
            "candidates": len(state.candidates.ids),
            "mean_uses": float(state.live.uses.mean()) if len(state.live.ids) else None,
            "most_uses": int(state.live.uses.max()) if len(state.live.ids) else None,
            "oldest_last_use": int(state.live.last.min()) if len(state.live.ids) else None,
        }
        for name, (state, rules) in tables.items()
    }


def show_tables(tables: Mapping[str, tuple[DynamicState, DynamicSchema]]) -> None:
    """Print one line per table: how many ids it holds, and how often they were used."""
    shown = Table("table", box=None)
    for column in ("capacity", "ids", "free rows", "candidates", "mean uses", "most uses", "oldest last use"):
        shown.add_column(column, justify="right")
    for name, (state, rules) in tables.items():
        live = state.live
        uses, last = (live.uses, live.last) if len(live.ids) else (np.zeros(1), np.zeros(1))
        shown.add_row(
            name,
            f"{rules.capacity:,}",
            f"{len(live.ids):,}",
            f"{len(live.freed):,}",
            f"{len(state.candidates.ids):,}",
            f"{uses.mean():,.1f}",
            f"{int(uses.max()):,}",
            f"iteration {int(last.min()):,}",
        )
    open_console().print(shown)
