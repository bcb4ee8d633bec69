"""Rows that begin anew: the plans of a stream in which each of their lives is a row of its own, but for the fetches."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import islice
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bagpipe_hpc.batch import Batch, Births
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.sharding import KeySpace
from tests.plans import RankPlans, rank_plans

from .streams import Case, cases, full_cases
from .test_planner import batches_of

MAX_LIVES = 20
NOT_COMPARED = {"fetch_slots", "fetch_counts", "fetch_offsets", "fetch_ring_rows"}
NOT_COMPARED |= {"born_slots", "born_tables", "born_ids"}


def with_births(case: Case, data: st.DataObject) -> tuple[list[Batch], list[Batch]]:
    """The stream with births, and the one in which every life of a row has a number of its own."""
    lives: dict[tuple[int, int], int] = {}
    features, sizes = case.sizes["features"], case.sizes["num_embeddings"]

    def numbered(rows: Any, feature: int) -> Any:
        table = features.tables[feature]
        life = np.array([lives.get((table, row), 0) for row in rows.tolist()], np.int64)
        return rows + life * sizes[table]

    reused, apart = [], []
    for batch in batches_of(case):
        columns = {feature: batch.ids[:, place] for place, feature in enumerate(features.one_hot)}
        bags = dict(zip(features.ragged, batch.bags.items(), strict=True))
        used = {(features.tables[f], row) for f, column in columns.items() for row in column.tolist()}
        used |= {(features.tables[f], row) for f, (_, each) in bags.items() for row in each.ids.tolist()}
        born: list[tuple[int, int]] = []
        if used and not batch.read_only:
            born = data.draw(st.lists(st.sampled_from(sorted(used)), unique=True), label="born")
        for each in born:
            lives[each] = lives.get(each, 0) + 1
        numbers = np.array(born, np.int64).reshape(-1, 2)
        births = Births(numbers[:, 0], numbers[:, 1], numbers[:, 1] + 1000) if born else None
        reused.append(replace(batch, births=births))
        ids = [numbered(column, f) for f, column in columns.items()]
        moved = {name: replace(bag, ids=numbered(bag.ids, f)) for f, (name, bag) in bags.items()}
        apart.append(replace(batch, ids=np.stack(ids, axis=1) if ids else batch.ids, bags=moved))
    return reused, apart


def plans_of(sizes: dict[str, Any], batches: list[Batch], **options: Any) -> list[RankPlans] | None:
    """Return all plans; None if the cache is too small."""
    try:
        return list(rank_plans(Planner(**sizes, **options).plans(batches)))
    except CacheTooSmallError:
        return None


def on_one_server(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """The planner's arguments for both streams."""
    sizes = {**case.sizes, "num_servers": 1}
    return sizes, {**sizes, "num_embeddings": tuple(MAX_LIVES * size for size in sizes["num_embeddings"])}


def assert_equal_lives(plan: TrainerPlan, other: TrainerPlan) -> None:
    assert sorted([*plan.fetch_slots, *plan.born_slots]) == sorted(other.fetch_slots)
    for field in fields(TrainerPlan):
        if field.name not in NOT_COMPARED:
            np.testing.assert_array_equal(getattr(plan, field.name), getattr(other, field.name), field.name)


@settings(deadline=None, max_examples=80)
@given(cases() | full_cases(), st.data())
def test_every_life_is_a_row_of_its_own(case: Case, data: st.DataObject) -> None:
    reused, apart = with_births(case, data)
    sizes, larger = on_one_server(case)
    max_dense_keys = data.draw(st.sampled_from([0, 2**20]), label="max_dense_keys")
    plans, others = plans_of(sizes, reused, max_dense_keys=max_dense_keys), plans_of(larger, apart)
    assert (plans is None) == (others is None)
    offsets = KeySpace(sizes["num_embeddings"]).table_offsets
    for batch, plan, other in zip(reused, plans or [], others or [], strict=False):
        found = []
        for mine, expected in zip(plan.trainers, other.trainers, strict=True):
            assert_equal_lives(mine, expected)
            found += list(zip(mine.born_tables.tolist(), mine.born_ids.tolist(), strict=True))
        births = batch.births or Births(*np.empty((3, 0), np.int64))
        assert sorted(found) == sorted(zip(births.tables.tolist(), births.ids.tolist(), strict=True))
        assert not np.isin(offsets[births.tables] + births.rows, plan.servers[0].fetch_rows).any()


@settings(deadline=None, max_examples=40)
@given(cases() | full_cases(), st.data())
def test_going_on(case: Case, data: st.DataObject) -> None:
    """What is resident at a cut and begins anew behind it has no use there."""
    reused, apart = with_births(case, data)
    assume(reused)
    cut = data.draw(st.integers(1, len(reused)), label="cut")
    after = []
    for sizes, batches in zip(on_one_server(case), (reused, apart), strict=True):
        planner = Planner(**sizes)
        try:
            for _ in islice(planner.plans(batches), cut):
                pass
        except CacheTooSmallError:
            assume(False)
        residents = planner.residents()
        after.append((residents, plans_of(sizes, batches[cut:], first_iteration=cut, residents=residents)))
    (residents, plans), (other_residents, others) = after
    np.testing.assert_array_equal(np.sort(residents.slots), np.sort(other_residents.slots))
    np.testing.assert_array_equal(residents.owner_ends, other_residents.owner_ends)
    assert (plans is None) == (others is None)
    for plan, other in zip(plans or [], others or [], strict=True):
        for mine, expected in zip(plan.trainers, other.trainers, strict=True):
            assert len(mine.fetch_slots) + len(mine.born_slots) == len(expected.fetch_slots)
            assert mine.num_own == expected.num_own
