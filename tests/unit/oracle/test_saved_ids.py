"""The ids of dynamic tables in checkpoints: whole, in increments, and damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.dynamic_rules import MISSING, DynamicSchema
from bagpipe_hpc.lookahead.dynamic_rows import DynamicRows, NoRowLeftError
from bagpipe_hpc.oracle.dynamic_tables import DynamicTablesState, TableFigures
from bagpipe_hpc.oracle.saved_ids import ids_of_tree, tree_of_ids


def state_of(rows: DynamicRows) -> DynamicTablesState:
    return DynamicTablesState({"user": rows.state_before([])}, {"user": TableFigures()}, np.zeros((0, 2), np.int64))


def arrays_of(state: DynamicTablesState) -> list[list[int]]:
    ids = state.ids["user"]
    return [part.tolist() for part in (*ids.live, *ids.candidates)]


@given(
    stream=st.lists(st.lists(st.integers(0, 12), max_size=6), min_size=1, max_size=20),
    saved=st.sets(st.integers(1, 20)),
    capacity=st.integers(3, 8),
    admit_after=st.integers(1, 3),
    lifetime=st.none() | st.integers(1, 5),
)
def test_increments(
    stream: list[list[int]], saved: set[int], capacity: int, admit_after: int, lifetime: int | None
) -> None:
    rows = DynamicRows(DynamicSchema(capacity=capacity, admit_after=admit_after, at_capacity="oldest"))
    parent, since = ids_of_tree(tree_of_ids(state_of(rows)), 0), 0
    for iteration, batch in enumerate(stream, start=1):
        oldest = 0 if lifetime is None else max(0, iteration - lifetime)
        try:
            rows.use(np.array(batch, np.int64), iteration, oldest)
        except NoRowLeftError:
            return
        if iteration in saved:
            state = state_of(rows)
            parent = ids_of_tree(tree_of_ids(state, since), iteration, parent)
            assert arrays_of(parent) == arrays_of(state)
            since = iteration


NUM_TRAINED = 3


def tree() -> dict[str, Any]:
    rows = DynamicRows(DynamicSchema(capacity=9, admit_after=2))
    rows.use(np.array([5, 5, 6, 6, 7]), NUM_TRAINED)
    saved: dict[str, Any] = tree_of_ids(state_of(rows))
    return saved


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("ids", np.array([5, 5]), "an id of table user is there twice"),
        ("ids", np.array([5.0, 6.0]), "ids of table user is not an array of int64"),
        ("ids", "5, 6", "ids of table user is not an array of int64"),
        ("ids", np.array([5, MISSING]), "an id of table user is -9223372036854775808, which stands for a missing"),
        ("ids", np.array([5, 7]), r"an id of table user has a row and waits for one: \[7\]"),
        ("ids", np.array([5]), "the parts of table user have different lengths"),
        ("rows", np.array([0, 0], np.int32), "the rows of table user are not distinct, or some are left out"),
        ("rows", np.array([0, 2], np.int32), "the rows of table user are not distinct, or some are left out"),
        ("uses", np.array([0, 2], np.int32), "uses of table user are below 1"),
        ("last", np.array([3, 2], np.int32), "last uses of table user fall"),
        ("last", np.array([3, 4], np.int32), "last uses of table user are not from 1 to 3"),
        ("last", np.array([0, 3], np.int32), "last uses of table user are not from 1 to 3"),
        ("rest", None, "rest of table user is not an array of int32 of shape"),
        ("more", 1, "table user has other parts than freed, ids, last, rows, uses"),
        ("freed", np.array([[2]], np.int32), "freed of table user is not an array of int32 of shape"),
        ("oldest", np.array([0], np.int32), "table user: builds on a checkpoint that does not have it"),
    ],
)
def test_damage(part: str, value: Any, said: str) -> None:
    damaged = tree()
    damaged["tables"]["user"]["live"][part] = value
    with pytest.raises(ValueError, match=said):
        ids_of_tree(damaged, NUM_TRAINED)


def with_figures(**changes: Any) -> dict[str, Any]:
    return {**tree(), "tables": {"user": {**tree()["tables"]["user"], "figures": {**vars(TableFigures()), **changes}}}}


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ([], "dynamic is no mapping"),
        ({**tree(), "more": 1}, "dynamic has other parts than tables, times"),
        ({**tree(), "tables": [1]}, "tables is no mapping"),
        ({**tree(), "tables": {"user": {}}}, "table user has other parts than candidates, figures, live"),
        ({**tree(), "tables": {"user": {**tree()["tables"]["user"], "live": 1}}}, "table user is no mapping"),
        (with_figures(live=-1), "a figure of table user is no count"),
        (with_figures(live=True), "a figure of table user is no count"),
        (with_figures(died=1), "figures of table user has other parts than"),
        ({**tree(), "times": 5}, r"times is not an array of int64 of shape \(n, 2\)"),
        ({**tree(), "times": np.zeros((1, 3), np.int64)}, r"times is not an array of int64 of shape \(n, 2\)"),
        ({**tree(), "times": np.array([[1, 5], [2, 4]])}, "times fall"),
        ({**tree(), "times": np.array([[1, 5], [1, 5]])}, "iterations of times do not rise"),
        ({**tree(), "times": np.array([[1, 5], [4, 5]])}, "iterations of times are not from 1 to 3"),
    ],
)
def test_other_damage(damaged: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ids_of_tree(damaged, NUM_TRAINED)


@pytest.mark.parametrize("rows", [np.array([7], np.int32), np.array([-1], np.int32)])
def test_rows_that_cannot_be_left(rows: Any) -> None:
    increment: Any = tree_of_ids(ids_of_tree(tree(), NUM_TRAINED), 1)
    increment["tables"]["user"]["live"]["oldest"] = rows
    with pytest.raises(ValueError, match="a row that is left was free before"):
        ids_of_tree(increment, NUM_TRAINED, ids_of_tree(tree(), NUM_TRAINED))
