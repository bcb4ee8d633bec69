"""Rows of dynamic tables, against a twin with dictionaries and the whole history of uses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.dynamic_rules import MISSING, DynamicSchema
from bagpipe_hpc.lookahead.dynamic_rows import Changes, DynamicRows, DynamicState, NoRowLeftError


class TwinIsFullError(Exception):
    pass


@dataclass
class Twin:
    """Remembers all ids as the rules say, one after the other."""

    rules: DynamicSchema
    rows: dict[int, int] = field(default_factory=dict)
    uses: Counter[int] = field(default_factory=Counter)  # since the id was forgotten last
    last: dict[int, tuple[int, int]] = field(default_factory=dict)  # iteration and place of the last first use
    freed: list[int] = field(default_factory=list)
    num_used: int = 0

    def use(self, ids: list[int], iteration: int, oldest: int) -> tuple[list[int | None], dict[int, int]]:
        """Return the row of each use, None: a default row; and the new rows with their ids."""
        for key in sorted(self.last, key=lambda key: self.last[key]):
            if self.last[key][0] < oldest:
                self.forget(key)
        known, born = dict(self.rows), {}
        uses, ids = ids, [key for key in ids if key != MISSING]
        self.uses.update(ids)
        for place, key in enumerate(dict.fromkeys(ids)):
            # Ids that had a row come before those that get one now.
            self.last[key] = (iteration, place if key in known else len(ids) + place)
        for key in dict.fromkeys(ids):
            if key not in self.rows and self.uses[key] >= self.rules.admit_after:
                self.rows[key] = row = self.new_row(iteration)
                born[row] = key
        return [self.rows.get(key) for key in uses], born

    def new_row(self, iteration: int) -> int:
        if self.freed:
            return self.freed.pop()
        if self.num_used < self.rules.capacity:
            self.num_used += 1
            return self.num_used - 1
        oldest = min(self.rows, key=lambda key: self.last[key])
        if self.rules.at_capacity == "error" or self.last[oldest][0] == iteration:
            raise TwinIsFullError
        self.forget(oldest)
        return self.freed.pop()

    def forget(self, key: int) -> None:
        if key in self.rows:
            self.freed.append(self.rows.pop(key))
        del self.last[key], self.uses[key]


ids = st.integers(0, 6) | st.sampled_from([MISSING, 2**63 - 1, -1]) | st.integers(0, 40)
streams = st.lists(st.lists(ids, max_size=12), max_size=25)


@given(
    stream=streams,
    capacity=st.integers(1, 12),
    admit_after=st.integers(1, 3),
    at_capacity=st.sampled_from(["error", "oldest"]),
    default_rows=st.integers(1, 3),
    lifetime=st.none() | st.integers(0, 6),
)
def test_equals_the_twin(
    stream: list[list[int]],
    capacity: int,
    admit_after: int,
    at_capacity: Literal["error", "oldest"],
    default_rows: int,
    lifetime: int | None,
) -> None:
    rules = DynamicSchema(
        capacity=capacity,
        admit_after=admit_after,
        at_capacity=at_capacity,
        default_rows=default_rows,
    )
    found, twin = DynamicRows(rules), Twin(rules)
    changes: list[Changes] = []
    states = [found.state_before([])]
    for iteration, batch in enumerate(stream, start=1):
        oldest = 0 if lifetime is None else iteration - lifetime
        try:
            expected, born = twin.use(batch, iteration, oldest)
        except TwinIsFullError:
            with pytest.raises(NoRowLeftError) as full:
                found.use(np.array(batch, np.int64), iteration, oldest)
            assert_same(found.state_before([full.value.changes]), states[-1])
            return
        mapped = found.use(np.array(batch, np.int64), iteration, oldest)
        assert [row - default_rows if row >= default_rows else None for row in mapped.rows.tolist()] == expected
        assert dict(zip((mapped.born_rows - default_rows).tolist(), mapped.born_ids.tolist(), strict=True)) == born
        assert mapped.num_defaults == expected.count(None)
        assert found.live.num_live == len(twin.rows)
        in_order = sorted(twin.rows, key=lambda key: twin.last[key])
        rows = found.live.rows()
        assert found.live.ids[rows, 0].tolist() == in_order
        assert rows.tolist() == [twin.rows[key] for key in in_order]
        assert found.live.cells[rows, 2].tolist() == [twin.uses[key] for key in in_order]
        assert found.live.free_rows().tolist() == twin.freed
        waiting = {key for key in twin.last if key not in twin.rows}
        assert set(found.state_before([]).candidates.ids.tolist()) == waiting
        everything = np.array([*range(-3, 45), -(2**63), 2**63 - 1])
        states.append(found.state_before([]))
        changes.append(mapped.changes or Changes(*np.empty((2, 0, 6), np.int64)))
        for back in range(len(changes) + 1):
            assert_same(found.state_before(changes[len(changes) - back :]), states[-1 - back])
        if iteration % 3 == 0:
            found, changes, states = DynamicRows(rules, states[-1]), [], states[-1:]
        looked_up = found.look_up(everything).rows.tolist()
        for key, row in zip(everything.tolist(), looked_up, strict=True):
            assert row - default_rows == twin.rows[key] if key in twin.rows else row < default_rows


def assert_same(state: DynamicState, expected: DynamicState) -> None:
    for mine, other in ((state.live, expected.live), (state.candidates, expected.candidates)):
        assert [each.tolist() for each in mine] == [each.tolist() for each in other]


def test_batches_that_grow_can_be_taken_back() -> None:
    rows = DynamicRows(DynamicSchema(capacity=200_000))
    changes = [rows.use(np.arange(size), i).changes for i, size in enumerate((10, 100_000, 150_000), start=1)]
    states = [rows.state_before([each for each in changes[back:] if each is not None]) for back in range(4)]
    assert [len(state.live.ids) for state in states] == [0, 10, 100_000, 150_000]
    assert_same(DynamicRows(DynamicSchema(capacity=200_000), states[2]).state_before([]), states[2])


@pytest.mark.parametrize("frequent", [[], [3], [-5, 3, 9]])
def test_admission_by_future_uses(frequent: list[int]) -> None:
    rules = DynamicSchema(capacity=9, admit_after=2, admit_by="future_uses")
    rows = DynamicRows(rules, frequent=np.array(frequent, np.int64))
    ids = [4, 3, -5, 4, 10, 9]
    mapped = rows.use(np.array(ids), 1)
    assert [row > 0 for row in mapped.rows.tolist()] == [key in frequent for key in ids]
    assert mapped.born_ids.tolist() == [key for key in ids if key in frequent]
    assert mapped.num_defaults == sum(key not in frequent for key in ids)
    assert rows.state_before([]).candidates.num_rows == 0


def test_default_rows_are_spread_by_id() -> None:
    rows = DynamicRows(DynamicSchema(capacity=1, default_rows=50)).look_up(np.arange(1000)).rows
    assert len(set(rows.tolist())) == 50
    assert rows.max() < 50
