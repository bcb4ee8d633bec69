"""The twin against plans worked by hand, and against playback on random streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from bagpipe_hpc.errors import CacheTooSmallError
from tests.plans import RankPlans

from .brute_force import Batch, BruteForcePlanner
from .playback import play
from .streams import Case, batch, cases, full_cases, one_table, wide_case, zipf_case


def plan_all(case: Case) -> list[RankPlans]:
    """Plans of the whole stream."""
    return list(BruteForcePlanner(**case.sizes).plans(case.batches))


def expect(part: object, **fields: object) -> None:
    """Fields of a plan, as plain numbers and lists."""
    values = {name: getattr(part, name) for name in fields}
    assert {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()} == fields


# --- plans worked by hand


def test_slots_are_reused_last_in_first_out_after_an_iteration_of_grace() -> None:
    batches = [batch([[0], [1]]), batch([[1], [2]]), batch([[3]]), batch([[4]])]
    sizes = {"num_trainers": 1, "num_servers": 1, "window": 1, "prefetch_depth": 1, "cache_rows": 4}
    plans = plan_all(Case(batches, sizes | one_table(5, 1)))

    first, second, third, fourth = (plan.trainers[0] for plan in plans)
    expect(first, fetch_slots=[0, 1], fetch_offsets=[0], update_slots=[0, 1], write_back_slots=[0])
    expect(second, fetch_slots=[2], fetch_offsets=[1024], update_slots=[1, 2], write_back_slots=[1, 2])
    expect(third, fetch_slots=[0], fetch_offsets=[0], update_slots=[0], write_back_slots=[0], sample_rows=[0])
    expect(fourth, fetch_slots=[2], fetch_offsets=[1024], update_slots=[2], write_back_slots=[2], sample_rows=[0])
    expect(plans[1].servers[0], fetch_rows=[2], write_back_rows=[1, 2], write_back_offsets=[1024])


def gray_case() -> Case:
    """Iteration 2 pushes one row of each Gray class from trainer 0 to trainer 1: keys 0, 1, 2, 3 in this order."""
    batches = [
        batch([[0, 1], [4, 4]]),
        batch([[2, 3], [5, 5]]),
        batch([[0, 6], [6, 6], [3, 1], [2, 0]]),
        batch([[1, 1], [2, 2]]),
    ]
    sizes = {**one_table(7, 2), "num_trainers": 2, "num_servers": 2, "window": 2, "prefetch_depth": 0, "cache_rows": 5}
    return Case(batches, sizes)


def test_replicas_stand_in_gray_order() -> None:
    plan = plan_all(gray_case())[2]

    expect(
        plan.trainers[0],
        sample_rows=[0, 1, 1, 1],
        num_own=2,
        update_slots=[0, 4, 3, 2, 1],  # keys 0, 6 | 3, 2, 1
        push_index=[0, 4, 3, 2],  # keys 0, 1, 2, 3
        push_counts=[[0, 0, 0, 0], [1, 1, 1, 1]],
        replica_counts=[[0, 0, 0, 0], [0, 0, 0, 0]],
        fetch_slots=[4],
        fetch_counts=[1, 0],
        write_back_slots=[0, 4, 3],  # keys 0, 6 | 3
        write_back_counts=[2, 1],
        forced_counts=[0, 0],
    )
    expect(
        plan.trainers[1],
        sample_rows=[3, 2, 1, 0],
        num_own=0,
        update_slots=[],
        push_index=[],
        push_counts=[[0, 0, 0, 0], [0, 0, 0, 0]],
        replica_counts=[[1, 1, 1, 1], [0, 0, 0, 0]],
        fetch_slots=[],
        write_back_slots=[],
    )
    expect(plan.servers[0], fetch_rows=[3], fetch_counts=[1, 0], write_back_rows=[0, 3], write_back_counts=[2, 0])
    expect(plan.servers[1], fetch_rows=[], write_back_rows=[1], write_back_counts=[1, 0], write_back_offsets=[0, 1])


def test_full_cache_evicts_the_farthest_then_turns_to_another_trainer() -> None:
    batches = [
        batch([[0, 1, 1], [4, 4, 4]]),
        batch([[2, 2, 2], [4, 4, 4]]),
        batch([[5, 6, 7], [4, 4, 4]]),
        batch([[0, 1, 1], [4, 4, 4]]),
    ]
    sizes = {"num_trainers": 2, "num_servers": 1, "window": 4, "prefetch_depth": 0, "cache_rows": 3}
    plans = plan_all(Case(batches, sizes | one_table(8, 3)))

    # Keys 0 and 1 are both due in iteration 3, key 1 was retained later. The slot of key 2 is not free yet: trainer 0
    # holds 5 and 6, both in use, and key 7 goes to trainer 1.
    expect(plans[2].trainers[0], fetch_slots=[1, 0], write_back_slots=[1, 0, 1, 0], forced_counts=[2], num_own=2)
    expect(
        plans[2].trainers[0], sample_rows=[0, 1, 2], replica_counts=[[0, 0, 0, 0], [1, 0, 0, 0]], update_slots=[1, 0]
    )
    expect(plans[2].trainers[1], fetch_slots=[1], write_back_slots=[1], forced_counts=[0], num_own=1)
    expect(plans[2].trainers[1], update_slots=[0, 1], push_index=[1], push_counts=[[1, 0, 0, 0], [0, 0, 0, 0]])
    expect(plans[2].servers[0], fetch_rows=[5, 6, 7], write_back_rows=[1, 0, 5, 6, 7], write_back_counts=[4, 1])


# --- playback


@settings(deadline=None, max_examples=300)
@given(cases() | full_cases())
def test_plans_play(case: Case) -> None:
    plans: list[RankPlans] = []
    try:
        for plan in BruteForcePlanner(**case.sizes).plans(case.batches):
            plans.append(plan)
    except CacheTooSmallError:
        assert case.may_not_fit
    play(case.batches, plans, **case.sizes)


@pytest.mark.parametrize(("num_trainers", "window", "prefetch_depth"), [(1, 6, 6), (2, 12, 1), (4, 3, 0)])
def test_longer_streams_play(num_trainers: int, window: int, prefetch_depth: int) -> None:
    case = zipf_case(num_trainers, num_trainers=num_trainers, window=window, prefetch_depth=prefetch_depth)
    play(case.batches, plan_all(case), **case.sizes)


def test_rings_grow() -> None:
    case = wide_case()
    plans = plan_all(case)
    assert [plan.servers[0].fetch_ring_rows for plan in plans] == [1024, 2048, 2048, 4096, 4096]
    assert [plan.servers[0].write_back_ring_rows for plan in plans] == [1024, 2048, 2048, 4096, 4096]
    play(case.batches, plans, **case.sizes)


# --- playback itself

Change = Callable[[RankPlans], RankPlans]


def trainer(t: int, **fields: Any) -> Change:
    """Change fields of one trainer's plan."""

    def change(plan: RankPlans) -> RankPlans:
        arrays: dict[str, Any] = {
            name: np.array(value, dtype=getattr(plan.trainers[t], name).dtype) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        trainers = list(plan.trainers)
        trainers[t] = replace(trainers[t], **arrays)
        return replace(plan, trainers=tuple(trainers))

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (trainer(1, sample_rows=[3, 1, 2, 0]), "a sample gets another row"),
        (trainer(0, push_index=[0, 4, 2, 3]), "late pushes|critical gradients"),
        (trainer(0, push_index=[0, 4, 3, 3]), "not exactly the rows in use"),
        (trainer(0, push_index=[0, 4, 3], push_counts=[[0, 0, 0, 0], [1, 1, 1, 0]]), "replica_counts"),
        (trainer(0, fetch_slots=[1]), "a dirty row is overwritten"),
        (trainer(0, fetch_slots=[5]), "slot outside the cache"),
        (trainer(0, update_slots=[0, 4, 3, 2, 2]), "a row is updated twice"),
        (trainer(0, update_slots=[0, 3, 4, 2, 1]), "an own row is not among the first"),
        (trainer(0, num_own=1), "an own row is not among the first"),
        (trainer(0, write_back_slots=[0, 4], write_back_counts=[2, 0]), "a dirty row is not written back"),
        (trainer(0, write_back_slots=[0, 4, 1]), "eviction of a row with a next use"),
        (trainer(0, write_back_slots=[4, 0, 3]), "write-back of another row"),
        (trainer(0, forced_counts=[1, 0]), "forced out for nothing"),
        (trainer(0, fetch_offsets=[1, 0]), "fetch_offsets"),
        (trainer(0, fetch_ring_rows=2048), "ring sizes differ"),
        (trainer(0, read_only=True), "read_only"),
        (trainer(0, write_back_slots=[0, 4, 4]), "a row leaves twice|absent row"),
    ],
)
def test_playback_finds_what_is_wrong(change: Change, complaint: str) -> None:
    case = gray_case()
    plans = plan_all(case)
    play(case.batches, plans, **case.sizes)
    plans[2] = change(plans[2])
    with pytest.raises(AssertionError, match=complaint):
        play(case.batches, plans, **case.sizes)


def test_playback_wants_the_farthest_victim() -> None:
    batches = [batch([[0, 1]]), batch([[3, 3]]), batch([[2, 2]]), batch([[0, 2]]), batch([[1, 1]])]
    sizes = {"num_trainers": 1, "num_servers": 1, "window": 4, "prefetch_depth": 0, "cache_rows": 3} | one_table(4, 2)
    plans = plan_all(Case(batches, sizes))
    expect(plans[2].trainers[0], fetch_slots=[1], write_back_slots=[1], forced_counts=[1])
    plans[2] = trainer(0, fetch_slots=[0], write_back_slots=[0], update_slots=[0])(plans[2])
    with pytest.raises(AssertionError, match="not Belady's victim"):
        play(batches, plans, **sizes)


def test_an_empty_stream_has_no_plans() -> None:
    no_batches: list[Batch] = []
    assert plan_all(Case(no_batches, gray_case().sizes)) == []
