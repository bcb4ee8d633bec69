"""The ids of dynamic tables in a checkpoint, as part of the state of the oracle. Reading checks all that it finds."""

from __future__ import annotations

from typing import Any

import numpy as np

from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.lookahead.dynamic_rows import DynamicState
from bagpipe_hpc.lookahead.id_map import IdState
from bagpipe_hpc.oracle.dynamic_tables import DynamicTablesState, TableFigures

_ARRAYS = {"ids": np.int64, "rows": np.int32, "uses": np.int32, "last": np.int32, "freed": np.int32}


def tree_of_ids(state: DynamicTablesState) -> Tree:
    """Return what a checkpoint saves."""
    tables = {
        name: {
            "live": ids.live._asdict(),
            "candidates": ids.candidates._asdict(),
            "figures": dict(vars(state.figures[name])),
        }
        for name, ids in state.ids.items()
    }
    return {"tables": tables, "times": state.times}


def ids_of_tree(tree: Tree) -> DynamicTablesState:
    """Return the state that `tree_of_ids` has described.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not one that a job writes.
    """
    ids, figures = {}, {}
    for name, table in tree["tables"].items():
        if set(table) != {"live", "candidates", "figures"}:
            raise ValueError(f"table {name} has other parts")
        ids[name] = DynamicState(_ids_in(table["live"], name), _ids_in(table["candidates"], name))
        figures[name] = TableFigures(**table["figures"])
        if any(type(value) is not int or value < 0 for value in vars(figures[name]).values()):
            raise ValueError(f"a figure of table {name} is no count")
    times = tree["times"]
    if times.dtype != np.int64 or times.ndim != 2 or times.shape[1] != 2 or (np.diff(times, axis=0) < 0).any():
        raise ValueError("times are not iterations and times that never fall")
    return DynamicTablesState(ids, figures, times)


def _ids_in(tree: Any, name: str) -> IdState:
    state = IdState(**tree)
    for part, dtype in _ARRAYS.items():
        array = getattr(state, part)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            raise ValueError(f"{part} of table {name} is not an array of {np.dtype(dtype)} of shape (n,)")
    if len({len(state.ids), len(state.rows), len(state.uses), len(state.last)}) != 1:
        raise ValueError(f"the parts of table {name} have different lengths")
    if not np.array_equal(np.sort(np.concatenate([state.rows, state.freed])), np.arange(state.num_rows)):
        raise ValueError(f"the rows of table {name} are not distinct, or some are left out")
    if len(np.unique(state.ids)) != len(state.ids):
        raise ValueError(f"an id of table {name} is there twice")
    if (state.uses < 1).any() or (state.last < 1).any() or (np.diff(state.last) < 0).any():
        raise ValueError(f"uses of table {name} are below 1, or last uses fall")
    return state
