"""What the caches hold between two plans, and a planner that goes on from there."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import Residents
from tests.plans import RankPlans, rank_plans

from .playback import Playback, Row
from .streams import Case, batch, cases, full_cases
from .test_planner import batches_of


def plan_up_to(case: Case, cut: int) -> tuple[list[RankPlans], Residents]:
    """Plans of the first iterations of a stream, and what is cached then."""
    planner = Planner(**case.sizes)
    plans = list(rank_plans(islice(planner.plans(batches_of(case)), cut)))
    residents = planner.residents()
    assert planner.cached_rows() == np.diff(residents.owner_ends).tolist()
    return plans, residents


def plan_on(case: Case, cut: int, residents: Residents | None) -> list[RankPlans]:
    """Plans of the other iterations, by another planner."""
    planner = Planner(**case.sizes, first_iteration=cut, residents=residents)
    return list(rank_plans(planner.plans(islice(batches_of(case), cut, None))))


class StoppedPlayback(Playback):
    """Plays the iterations before a cut, then, with servers that have every row, those behind it."""

    def cached(self) -> list[list[tuple[int, int, bool]]]:
        """Of every trainer: key, slot, dirty; by key."""
        return [sorted((row.key, slot, row.dirty) for slot, row in cache.items()) for cache in self.caches]

    def go_on(self, plans: list[RankPlans], first: int, *, with_caches: bool) -> None:
        self.plans = [*self.plans[:first], *plans]
        self.uses[first - 1] = set()  # for those who go on, nothing was used in the iteration before
        self.tables = list(self.versions)
        self.freed = [0 for _ in self.trainers]
        for cache in self.caches:
            kept = {slot: Row(row.key, row.version) for slot, row in cache.items()} if with_caches else {}
            cache.clear()
            cache.update(kept)


def listed(residents: Residents) -> list[list[tuple[int, int, bool]]]:
    columns = [column.tolist() for column in (residents.keys, residents.slots, residents.dirty)]
    rows = list(zip(*columns, strict=True))
    return [rows[residents.of(trainer)] for trainer in range(len(residents.owner_ends) - 1)]


@given(st.one_of(cases(), full_cases()), st.data())
@settings(max_examples=80, deadline=None)
def test_a_planner_goes_on_where_another_stopped(case: Case, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, max(1, len(case.batches))), label="cut")
    assume(cut <= len(case.batches))
    with_caches = data.draw(st.booleans(), label="with_caches")
    eager = data.draw(st.booleans(), label="eager")
    overlapped = data.draw(st.booleans(), label="overlapped") and case.sizes["prefetch_depth"] > 0
    try:
        before, residents = plan_up_to(case, cut)
        after = plan_on(case, cut, residents if with_caches else None)
    except CacheTooSmallError:
        assume(False)
    playback = StoppedPlayback(list(case.batches), before, eager=eager, overlapped=overlapped, **case.sizes)
    playback.run_part(0, cut)
    assert listed(residents) == playback.cached()
    playback.go_on(after, cut, with_caches=with_caches)
    playback.run_part(cut, len(case.batches))
    assert not any(playback.caches), "rows left in a cache"
    assert playback.tables == playback.versions, "updates lost"


@given(cases(), st.data())
@settings(max_examples=60, deadline=None)
def test_nothing_is_fetched_that_is_cached(case: Case, data: st.DataObject) -> None:
    sizes = {**case.sizes, "cache_rows": 1000}  # nothing is forced out
    case = Case(case.batches, sizes)
    cut = data.draw(st.integers(1, max(1, len(case.batches))), label="cut")
    assume(cut <= len(case.batches))
    whole = list(rank_plans(Planner(**sizes).plans(batches_of(case))))
    _, residents = plan_up_to(case, cut)
    for mine, other in zip(plan_on(case, cut, residents), whole[cut:], strict=True):
        assert mine.stream_position == other.stream_position
        for server, expected in zip(mine.servers, other.servers, strict=True):
            assert sorted(server.fetch_rows) == sorted(expected.fetch_rows)


@pytest.mark.parametrize("cache_rows", [2, 3, 5])
def test_slots_that_a_smaller_cache_lacks_are_let_go(cache_rows: int) -> None:
    keys = np.array([0, 1, 2, 3])
    residents = Residents(keys, keys.astype(np.int32), np.zeros(4, np.bool_), np.array([0, 4]))
    sizes = {
        "num_embeddings": (8,), "features": FeatureTables((0,)), "num_trainers": 1, "num_servers": 1, "window": 4,
        "prefetch_depth": 0, "cache_rows": cache_rows,
    }  # fmt: skip
    case = Case([batch([[key]]) for key in (1, 0, 2, 3)], sizes)
    plans = plan_on(case, 0, residents)
    fetched = [key for plan in plans for key in plan.servers[0].fetch_rows.tolist()]
    assert fetched == [key for key in (1, 0, 2, 3) if key >= cache_rows]
