"""The ids of dynamic tables in a checkpoint, as part of the state of the oracle. Reading checks all that it finds.

An increment has the ids that were used since the checkpoint before. The others are a run of the ids of that checkpoint,
in its order of last uses: only the oldest ids are ever forgotten. Candidates leave when they are admitted, too, so an
increment lists the rows of those that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.checkpoint.tree import Tree
from bagpipe_hpc.dynamic_rules import MISSING
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


def ids_of_tree(tree: object, num_trained: int, parent: DynamicTablesState | None = None) -> DynamicTablesState:
    """Return the state that `tree_of_ids` has described.

    Args:
        tree: What the checkpoint has saved.
        num_trained: Training iterations before the checkpoint.
        parent: The state in the checkpoint that it builds on; None: it builds on none.
    Raises:
        ValueError: it is not one that a job writes.
    """
    content = _members(tree, "dynamic", {"tables", "times"})
    tables = _members(content["tables"], "tables")
    ids = {name: _table_in(table, name, num_trained, parent) for name, table in tables.items()}
    figures = {name: _figures_in(table["figures"], name) for name, table in tables.items()}
    times = _array(content["times"], "times", np.int64, (None, 2))
    iterations = times[:, 0]
    _require(not (np.diff(times[:, 1]) < 0).any(), "times fall")
    _require(not (np.diff(iterations) <= 0).any(), "iterations of times do not rise")
    _require(_are_within(iterations, num_trained), f"iterations of times are not from 1 to {num_trained}")
    return DynamicTablesState(ids, figures, times)


def _table_in(tree: object, name: str, num_trained: int, parent: DynamicTablesState | None) -> DynamicState:
    table = _members(tree, f"table {name}", {"live", "candidates", "figures"})
    before = parent.ids.get(name) if parent else None
    live = _ids_in(table["live"], f"table {name}", num_trained, before.live if before else None)
    of_candidates = f"candidates of table {name}"
    candidates = _ids_in(table["candidates"], of_candidates, num_trained, before.candidates if before else None)
    both = np.intersect1d(live.ids, candidates.ids)
    _require(not len(both), f"an id of table {name} has a row and waits for one: {both[:1].tolist()}")
    return DynamicState(live, candidates)


def _figures_in(tree: object, name: str) -> TableFigures:
    figures = _members(tree, f"figures of table {name}", {field.name for field in fields(TableFigures)})
    _require(
        all(type(value) is int and value >= 0 for value in figures.values()), f"a figure of table {name} is no count"
    )
    return TableFigures(**figures)


def _tree_of(state: IdState, since: int | None, *, lists_rest: bool = False) -> Tree:
    """Return the ids that were used since an iteration, and which rows have the others that are left."""
    if since is None:
        return state._asdict()
    num_left = int(np.searchsorted(state.last, since, side="right"))
    columns = {name: getattr(state, name)[num_left:] for name in ("ids", "rows", "uses", "last")}
    rest = {"rest": state.rows[:num_left]} if lists_rest else {"oldest": state.rows[: min(1, num_left)]}
    return {**columns, "freed": state.freed, **rest}


def _ids_in(tree: object, what: str, num_trained: int, before: IdState | None) -> IdState:
    """Return ids with rows or candidates. Messages call them `what`."""
    content = _members(tree, what)
    left = {name: content.pop(name) for name in ("rest", "oldest") if name in content}
    _members(content, what, set(_ARRAYS))
    state = IdState(**{part: _array(content[part], f"{part} of {what}", dtype) for part, dtype in _ARRAYS.items()})
    _require(
        len({len(state.ids), len(state.rows), len(state.uses), len(state.last)}) == 1,
        f"the parts of {what} have different lengths",
    )
    for kind, rows in left.items():
        rows = _array(rows, f"{kind} of {what}", np.int32)
        _require(before is not None and len(left) == 1, f"{what}: builds on a checkpoint that does not have it")
        assert before is not None
        state = _joined(before, _places_left(before, rows, kind, state), state)
    rows = np.sort(np.concatenate([state.rows, state.freed]))
    _require(
        np.array_equal(rows, np.arange(state.num_rows)), f"the rows of {what} are not distinct, or some are left out"
    )
    _require(len(np.unique(state.ids)) == len(state.ids), f"an id of {what} is there twice")
    _require(not (state.ids == MISSING).any(), f"an id of {what} is {MISSING}, which stands for a missing value")
    _require(not (state.uses < 1).any(), f"uses of {what} are below 1")
    _require(not (np.diff(state.last) < 0).any(), f"last uses of {what} fall")
    _require(_are_within(state.last, num_trained), f"last uses of {what} are not from 1 to {num_trained}")
    return state


def _places_left(before: IdState, rows: Int32Array, kind: str, used: IdState) -> Int64Array:
    """Return the places of the ids that are left, in the order of last uses of the checkpoint before.

    Args:
        before: The ids of the checkpoint before.
        rows: The rows of the ids that are left (kind `rest`), or of the oldest of them (`oldest`).
        used: The ids that were used since.
    """
    place = np.full(before.num_rows, NONE)
    place[before.rows] = np.arange(len(before.rows))
    is_known = ((rows >= 0) & (rows < before.num_rows)).all() and (place[rows] != NONE).all()
    _require(is_known, "a row that is left was free before")
    places = place[rows]
    if kind == "rest" or not len(places):
        return places
    run = np.arange(places[0], len(before.rows))
    return run[~np.isin(before.ids[run], used.ids)]


def _joined(before: IdState, left: Int64Array, used: IdState) -> IdState:
    """Return the ids of a checkpoint in some places, then those that were used since."""
    names = ("ids", "rows", "uses", "last")
    columns = {name: np.concatenate([getattr(before, name)[left], getattr(used, name)]) for name in names}
    return IdState(**columns, freed=used.freed)


def _members(tree: object, what: str, names: set[str] | None = None) -> dict[str, Any]:
    """Return a copy of a mapping that has these members. None: any."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{what} is no mapping")
    _require(names is None or set(tree) == names, f"{what} has other parts than {', '.join(sorted(names or ()))}")
    return dict(tree)


def _array(tree: object, what: str, dtype: type, shape: tuple[int | None, ...] = (None,)) -> NDArray[Any]:
    """Return an array that has this dtype and shape, in which None stands for any length."""
    words = ", ".join("n" if length is None else str(length) for length in shape)
    fault = f"{what} is not an array of {np.dtype(dtype)} of shape ({words}{',' if len(shape) == 1 else ''})"
    if not isinstance(tree, np.ndarray) or tree.dtype != dtype or tree.ndim != len(shape):
        raise ValueError(fault)
    _require(all(wanted in (None, found) for wanted, found in zip(shape, tree.shape, strict=True)), fault)
    return tree


def _are_within(iterations: Int32Array | Int64Array, num_trained: int) -> bool:
    return not ((iterations < 1) | (iterations > num_trained)).any()


def _require(holds: bool | np.bool_, fault: str) -> None:
    if not holds:
        raise ValueError(fault)
