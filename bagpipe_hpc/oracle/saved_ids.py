"""The ids of dynamic tables in a checkpoint, as part of the state of the oracle. Reading checks all that it finds.

An increment has the ids that were used since the checkpoint before. The others are a run of the ids of that checkpoint,
in its order of last uses: only the oldest ids are ever forgotten. Candidates leave when they are admitted, too, so an
increment lists the rows of those that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.lookahead.dynamic_rows import DynamicState
from bagpipe_hpc.lookahead.id_map import NONE, IdState
from bagpipe_hpc.oracle.dynamic_tables import DynamicTablesState, TableFigures
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array

_ARRAYS = {"ids": np.int64, "rows": np.int32, "uses": np.int32, "last": np.int32, "freed": np.int32}


def tree_of_ids(state: DynamicTablesState, since: int | None = None) -> Tree:
    """Return what a checkpoint saves.

    Args:
        state: The tables.
        since: Training iterations before the checkpoint that an increment builds on. None: all ids are saved.
    """
    tables = {
        name: {
            "live": _tree_of(ids.live, since),
            "candidates": _tree_of(ids.candidates, since, lists_rest=True),
            "figures": dict(vars(state.figures[name])),
        }
        for name, ids in state.ids.items()
    }
    return {"tables": tables, "times": state.times}


def ids_of_tree(tree: Tree, parent: DynamicTablesState | None = None) -> DynamicTablesState:
    """Return the state that `tree_of_ids` has described.

    Args:
        tree: What the checkpoint has saved.
        parent: The state in the checkpoint that it builds on; None: it builds on none.
    Raises:
        ValueError, TypeError, KeyError, AttributeError, IndexError: it is not one that a job writes.
    """
    ids, figures = {}, {}
    for name, table in tree["tables"].items():
        if set(table) != {"live", "candidates", "figures"}:
            raise ValueError(f"table {name} has other parts")
        before = parent.ids.get(name) if parent else None
        ids[name] = DynamicState(
            _ids_in(table["live"], name, before.live if before else None),
            _ids_in(table["candidates"], name, before.candidates if before else None),
        )
        figures[name] = TableFigures(**table["figures"])
        if any(type(value) is not int or value < 0 for value in vars(figures[name]).values()):
            raise ValueError(f"a figure of table {name} is no count")
    times = tree["times"]
    if times.dtype != np.int64 or times.ndim != 2 or times.shape[1] != 2 or (np.diff(times, axis=0) < 0).any():
        raise ValueError("times are not iterations and times that never fall")
    return DynamicTablesState(ids, figures, times)


def _tree_of(state: IdState, since: int | None, *, lists_rest: bool = False) -> Tree:
    """Return the ids that were used since an iteration, and which rows have the others that are left."""
    if since is None:
        return state._asdict()
    num_left = int(np.searchsorted(state.last, since, side="right"))
    columns = {name: getattr(state, name)[num_left:] for name in ("ids", "rows", "uses", "last")}
    rest = {"rest": state.rows[:num_left]} if lists_rest else {"oldest": state.rows[: min(1, num_left)]}
    return {**columns, "freed": state.freed, **rest}


def _ids_in(tree: Mapping[str, Any], name: str, before: IdState | None) -> IdState:
    given = dict(tree)
    rest, oldest = given.pop("rest", None), given.pop("oldest", None)
    state = IdState(**given)
    for part, dtype in _ARRAYS.items():
        array = getattr(state, part)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            raise ValueError(f"{part} of table {name} is not an array of {np.dtype(dtype)} of shape (n,)")
    if len({len(state.ids), len(state.rows), len(state.uses), len(state.last)}) != 1:
        raise ValueError(f"the parts of table {name} have different lengths")
    if rest is not None or oldest is not None:
        if before is None:
            raise ValueError(f"table {name} builds on a checkpoint that does not have it")
        left = _places(before, oldest if rest is None else rest)
        if rest is None and len(left):
            left = np.arange(left[0], len(before.rows))
            left = left[~np.isin(before.ids[left], state.ids)]
        state = _joined(before, left, state)
    if not np.array_equal(np.sort(np.concatenate([state.rows, state.freed])), np.arange(state.num_rows)):
        raise ValueError(f"the rows of table {name} are not distinct, or some are left out")
    if len(np.unique(state.ids)) != len(state.ids):
        raise ValueError(f"an id of table {name} is there twice")
    if (state.uses < 1).any() or (state.last < 1).any() or (np.diff(state.last) < 0).any():
        raise ValueError(f"uses of table {name} are below 1, or last uses fall")
    return state


def _places(before: IdState, rows: Int32Array) -> Int64Array:
    """Return the places of rows in the order of last uses."""
    place = np.full(before.num_rows, NONE)
    place[before.rows] = np.arange(len(before.rows))
    places = place[rows]
    if (places == NONE).any():
        raise ValueError("a row that is left was free before")
    return places


def _joined(before: IdState, left: Int64Array, used: IdState) -> IdState:
    """Return the ids of a checkpoint in some places, then those that were used since."""
    names = ("ids", "rows", "uses", "last")
    columns = {name: np.concatenate([getattr(before, name)[left], getattr(used, name)]) for name in names}
    return IdState(**columns, freed=used.freed)
