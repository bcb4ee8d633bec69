"""The lists of an iteration against lists made by hand from the plan, for random streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.trainer.iteration_lists import GradientList, lists_of
from tests.plans import empty_trainer_plan

EARLY, CRITICAL = {0, 1}, {2, 3}  # Gray classes of pushes
CRITICAL_GRADIENT, DELAYED_GRADIENT = {1, 2}, {0, 3}  # and of gradients
NUM_TRAINERS = 3


def plan(seed: int, *, read_only: bool = False) -> TrainerPlan:
    """A plan with the lists that matter. A row has the same kind of gradient at all trainers that use it."""
    random = np.random.default_rng(seed)
    num_updates, num_own = 12, 7
    is_delayed = random.random(num_updates) < 0.5
    counts, index = np.zeros((NUM_TRAINERS, 4), np.int32), []
    for trainer in range(1, NUM_TRAINERS):  # this is trainer 0
        for gray in range(4):
            fitting = np.flatnonzero(is_delayed == (gray in DELAYED_GRADIENT))
            chosen = random.permutation(fitting)[: random.integers(0, 3)]
            counts[trainer, gray] = len(chosen)
            index += chosen.tolist()
    write_backs = random.integers(0, 4, 2).astype(np.int32)
    return replace(
        empty_trainer_plan(),
        read_only=read_only,
        num_own=num_own,
        update_slots=random.permutation(50)[:num_updates].astype(np.int32),
        push_index=np.array(index, np.int32),
        push_counts=counts,
        replica_counts=random.integers(0, 3, (NUM_TRAINERS, 4)).astype(np.int32),
        write_back_slots=random.permutation(50)[: write_backs.sum()].astype(np.int32),
        write_back_counts=write_backs,
        forced_counts=np.array([random.integers(0, count + 1) for count in write_backs], np.int32),
    )


def pushes_of(plan: TrainerPlan, classes: set[int]) -> list[list[int]]:
    """Positions in update_slots of the rows of these Gray classes that each trainer gets."""
    index, found = plan.push_index.tolist(), []
    for counts in plan.push_counts.tolist():
        found.append(
            [position for gray, count in enumerate(counts) for position in take(index, count, gray in classes)]
        )
    return found


def take(items: list[int], count: int, wanted: bool) -> list[int]:
    taken, items[:] = items[:count], items[count:]
    return taken if wanted else []


def arriving(plan: TrainerPlan, gradients: GradientList) -> list[list[int]]:
    """Positions in update_slots that the gradients of each trainer belong to."""
    of_gradients = gradients.positions[gradients.index]
    return [part.tolist() for part in np.split(of_gradients, gradients.starts[1:-1])]


@pytest.mark.parametrize("seed", range(5))
def test_overlapped(seed: int) -> None:
    mine = plan(seed)
    lists = lists_of(mine, is_overlapped=True)
    for pushes, classes in ((lists.early_pushes, EARLY), (lists.critical_pushes, CRITICAL)):
        expected = pushes_of(mine, classes)
        assert pushes.slots.tolist() == [mine.update_slots[p] for part in expected for p in part]
        assert pushes.counts.tolist() == [len(part) for part in expected]
    delayed = {position for part in pushes_of(mine, DELAYED_GRADIENT) for position in part}
    assert lists.delayed.positions.tolist() == sorted(delayed)
    assert lists.critical.positions.tolist() == sorted(set(range(12)) - delayed)
    for gradients, classes in ((lists.critical, CRITICAL_GRADIENT), (lists.delayed, DELAYED_GRADIENT)):
        assert gradients.slots.tolist() == mine.update_slots[gradients.positions].tolist()
        assert gradients.num_own == (gradients.positions < mine.num_own).sum()
        assert arriving(mine, gradients) == pushes_of(mine, classes)
        assert gradients.counts.tolist() == np.diff(gradients.starts).tolist()
    begin, expected_replicas = 0, []
    for gray, count in [pair for counts in mine.replica_counts.tolist() for pair in enumerate(counts)]:
        expected_replicas += list(range(begin, begin + count)) if gray in DELAYED_GRADIENT else []
        begin += count
    assert lists.delayed_replicas.tolist() == expected_replicas
    assert len(lists.replicated) == begin


@pytest.mark.parametrize("seed", range(3))
def test_one_after_the_other_nothing_is_early_or_delayed(seed: int) -> None:
    mine = plan(seed)
    lists = lists_of(mine, is_overlapped=False)
    assert lists.critical_pushes.slots.tolist() == mine.update_slots[mine.push_index].tolist()
    assert lists.critical.positions.tolist() == list(range(12))
    assert arriving(mine, lists.critical) == pushes_of(mine, EARLY | CRITICAL)
    assert (len(lists.early_pushes.slots), len(lists.delayed.slots), len(lists.delayed_replicas)) == (0, 0, 0)


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_a_read_only_iteration_updates_nothing(is_overlapped: bool) -> None:
    mine = plan(0, read_only=True)
    lists = lists_of(mine, is_overlapped=is_overlapped)
    assert len(lists.early_pushes.slots) + len(lists.critical_pushes.slots) == len(mine.push_index) > 0
    for gradients in (lists.critical, lists.delayed):
        assert (len(gradients.slots), len(gradients.index), gradients.starts.tolist()) == (0, 0, [0, 0, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_forced_evictions_come_first_in_the_block_of_each_server(seed: int) -> None:
    mine = plan(seed)
    leaving = lists_of(mine, is_overlapped=True).leaving
    first = int(mine.write_back_counts[0])
    forced = [*range(mine.forced_counts[0]), *range(first, first + mine.forced_counts[1])]
    assert leaving.forced_places.tolist() == forced
    assert leaving.forced_slots.tolist() == mine.write_back_slots[forced].tolist()
    others = [place for place in range(len(mine.write_back_slots)) if place not in forced]
    assert leaving.other_slots.tolist() == mine.write_back_slots[others].tolist()
    assert leaving.other_places.tolist() == (others if forced else [])
