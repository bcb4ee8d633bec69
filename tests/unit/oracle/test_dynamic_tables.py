"""Batches whose ids become rows: the same rows wherever a job was stopped, and ids that live as long as they should."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import TableFullError
from bagpipe_hpc.oracle.dynamic_tables import DynamicTables, DynamicTablesState
from bagpipe_hpc.oracle.saved_ids import ids_of_tree, tree_of_ids


def schema_of(**rules: object) -> Schema:
    users = DynamicSchema.model_validate({"capacity": 6, "at_capacity": "oldest", **rules})
    words = DynamicSchema(capacity=40, admit_after=2, default_rows=3)
    tables = (
        TableSchema(name="user", num_embeddings=users.num_rows, dynamic=users),
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="friend", num_embeddings=users.num_rows, shares="user"),
        TableSchema(name="words", num_embeddings=words.num_rows, dynamic=words, ragged=True),
        TableSchema(name="seen", num_embeddings=9, shares="item", ragged=True),
    )
    return Schema(tables=tables, time="t")


def batch_of(users: list[int], time: int = 0, *, read_only: bool = False) -> Batch:
    """Each sample has a user, an item, a friend, the words of its user, and an item seen."""
    count = len(users)
    ids = np.array([[user, abs(user) % 9, -user] for user in users], np.int64).reshape(count, 3)
    words = Bags(2 * np.arange(count + 1), np.repeat(np.array(users, np.int64), 2) + np.arange(2 * count) % 2)
    seen = Bags(np.arange(count + 1), np.arange(count) % 9)
    return Batch(
        np.zeros(count, np.float32), np.zeros((count, 0), np.float32), ids, {"words": words, "seen": seen},
        read_only=read_only, times=np.full(count, time),
    )  # fmt: skip


def assert_same(state: DynamicTablesState, other: DynamicTablesState) -> None:
    assert state.figures == other.figures
    for name, ids in state.ids.items():
        for mine, expected in zip(
            [*ids.live, *ids.candidates], [*other.ids[name].live, *other.ids[name].candidates], strict=True
        ):
            np.testing.assert_array_equal(mine, expected)


def births_of(batch: Batch) -> list[list[int]]:
    return [] if batch.births is None else [part.tolist() for part in vars(batch.births).values()]


users = st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=3)
lifetimes = st.sampled_from([None, "2 iterations", "3 units", "5 units"])


@given(
    stream=st.lists(st.tuples(users, st.integers(0, 3), st.booleans()), min_size=1, max_size=14),
    lifetime=lifetimes,
    cut=st.integers(0, 14),
    ahead=st.integers(0, 6),
)
def test_going_on_gives_the_same_rows(
    stream: list[tuple[list[int], int, bool]], lifetime: str | None, cut: int, ahead: int
) -> None:
    """A job maps some batches ahead of its plans, is stopped, and goes on from a checkpoint."""
    schema, time, batches = schema_of(capacity=12, expire_after=lifetime), 0, []
    for each, step, read_only in stream:
        time += step
        batches.append(batch_of(each, time, read_only=read_only))
    whole = DynamicTables(schema, 0)
    expected = [whole.mapped(batch) for batch in batches]

    cut = min(cut, len(batches))
    stopped, num_trained = DynamicTables(schema, 0), 0
    for batch in batches[: cut + ahead]:
        stopped.mapped(batch)
    for batch in batches[:cut]:
        if not batch.read_only:
            stopped.planned()
            num_trained += 1
    state = ids_of_tree(tree_of_ids(stopped.state()), num_trained)
    alone = DynamicTables(schema, 0)
    for batch in batches[:cut]:
        alone.mapped(batch)
        if not batch.read_only:
            alone.planned()
    assert_same(state, alone.state())

    going_on = DynamicTables(schema, num_trained, state)
    for batch, before in zip(batches[cut:], expected[cut:], strict=True):
        mapped = going_on.mapped(batch)
        np.testing.assert_array_equal(mapped.ids, before.ids)
        np.testing.assert_array_equal(mapped.bags["words"].ids, before.bags["words"].ids)
        births = [
            None if each.births is None else tuple(map(tuple, vars(each.births).values())) for each in (mapped, before)
        ]
        assert births[0] == births[1]


def test_rows_take_the_place_of_ids() -> None:
    tables = DynamicTables(schema_of(), 0)
    batch = batch_of([5, 7, 5])
    mapped = tables.mapped(batch)
    assert mapped.ids.dtype == np.int32
    assert mapped.ids.tolist() == [[1, 5, 3], [2, 7, 4], [1, 5, 3]]  # row 0 is the default row; friends come last
    assert mapped.bags["words"].ids.tolist() == [3, 4, 0 + _default(7), _default(8), 3, 4]
    assert mapped.bags["seen"] is batch.bags["seen"]
    assert mapped.births is not None
    assert mapped.births.tables.tolist() == [0] * 4 + [2] * 2
    assert mapped.births.ids.tolist() == [5, 7, -5, -7, 5, 6]
    tables.planned()
    figures = tables.figures()
    assert (figures["user"].live, figures["user"].uses, figures["user"].default_uses) == (4, 6, 0)
    assert (figures["words"].live, figures["words"].admitted, figures["words"].default_uses) == (2, 2, 2)
    looked_up = tables.mapped(batch_of([7, 9], read_only=True))
    assert looked_up.births is None
    assert looked_up.ids.tolist() == [[2, 7, 4], [0, 0, 0]]
    assert tables.figures() == figures


def _default(word: int) -> int:
    schema = schema_of()
    tables = DynamicTables(schema, 0)
    return int(tables.mapped(replace(batch_of([word]), read_only=True)).bags["words"].ids[0])


@pytest.mark.parametrize(
    ("lifetime", "times", "live"),
    [
        ("1 iterations", [0, 0, 0], 4),
        ("2 iterations", [0, 0, 0], 6),
        ("9 units", [0, 5, 10], 4),
        ("10 units", [0, 5, 10], 6),
        ("4 units", [0, 5, 10], 2),
    ],
)
def test_ids_expire(lifetime: str, times: list[int], live: int) -> None:
    tables = DynamicTables(schema_of(expire_after=lifetime), 0)
    for user, time in enumerate(times, start=1):
        tables.mapped(batch_of([user], time))
        tables.planned()
    assert tables.figures()["user"].live == live


def test_a_lifetime_that_is_new_after_a_restart() -> None:
    """Nothing is known of the times before, so nothing expires until the lifetime has passed."""
    before = DynamicTables(schema_of(capacity=12), 0)
    for user, time in ((1, 0), (2, 5)):
        before.mapped(replace(batch_of([user], time), times=None))
        before.planned()
    tables = DynamicTables(schema_of(capacity=12, expire_after="9 units"), 2, before.state())
    for time, live in ((10, 4 + 2), (19, 6), (20, 2)):
        tables.mapped(batch_of([3], time))
        tables.planned()
        assert tables.figures()["user"].live == live


@given(
    stream=st.lists(st.lists(st.integers(-9, 9).filter(bool), max_size=4), max_size=9),
    lifetime=lifetimes,
    admit_after=st.integers(1, 2),
    num_planned=st.integers(0, 9),
)
def test_a_batch_that_finds_no_row_leaves_nothing_behind(
    stream: list[list[int]], lifetime: str | None, admit_after: int, num_planned: int
) -> None:
    schema = schema_of(capacity=7, at_capacity="error", expire_after=lifetime, admit_after=admit_after)
    full, alone = DynamicTables(schema, 0), DynamicTables(schema, 0)
    batches = [batch_of(each, time) for time, each in enumerate(stream)]
    num_planned = min(num_planned, len(batches))
    num_mapped = 0
    with suppress(TableFullError):
        for batch in batches:
            full.mapped(batch)
            num_mapped += 1
        full.mapped(batch_of([101, 102, 103, 104], len(batches)))
        full.mapped(batch_of([101, 102, 103, 104], len(batches)))
        pytest.fail("eight ids find rows in a table of seven")
    for batch in batches[: min(num_planned, num_mapped)]:
        full.planned()
        alone.mapped(batch)
        alone.planned()
    assert_same(full.state(), alone.state())
    assert full.state().times[:, 0].max(initial=0) <= num_planned


def test_full_tables() -> None:
    tables = DynamicTables(schema_of(capacity=3, at_capacity="error"), 4)
    tables.mapped(batch_of([1]))
    with pytest.raises(TableFullError, match=r"table user has rows for 3 ids, and a new id of iteration 6 finds none"):
        tables.mapped(batch_of([2]))
    with pytest.raises(TableFullError, match=r"iteration 1 uses more ids than that; raise tables\.user\.capacity"):
        DynamicTables(schema_of(capacity=3), 0).mapped(batch_of([1, 2]))
