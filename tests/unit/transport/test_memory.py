"""The in-process twin keeps the contract; so do the scenarios themselves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from bagpipe_hpc.protocol.plan import Float32Array, Int64Array
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.threaded_job import ThreadedJob
from bagpipe_hpc.transport.memory import MemoryLink, MemoryServer, MemoryTrainer
from tests.contract import SCENARIOS, Play, Scenario, play_server, play_trainer


def run(play: Play, stores: list[RowStore], run_ahead: bool = False) -> None:
    """Play with a thread for every server and every trainer; the first failure ends all, and is raised."""
    link, job = MemoryLink(len(stores), play.num_trainers), ThreadedJob()

    def together(player: Callable[..., None], *args: Any) -> None:
        job.adopt()
        try:
            player(play, *args)
        except BaseException as error:
            job.fail("a player", error)

    with ThreadPoolExecutor(len(stores) + play.num_trainers) as pool:
        for server, store in enumerate(stores):
            pool.submit(together, play_server, MemoryServer(link, server, store), store)
        for trainer in range(play.num_trainers):
            pool.submit(together, play_trainer, MemoryTrainer(link, trainer), trainer, run_ahead)
    if job.failure is not None:
        raise job.failure[1]


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize(("num_trainers", "num_servers"), [(1, 1), (2, 1), (1, 3), (4, 2)])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_contract(scenario: Scenario, num_trainers: int, num_servers: int, run_ahead: bool) -> None:
    play = Play(scenario, num_trainers, num_servers)
    run(play, [play.new_store(server) for server in range(num_servers)], run_ahead)


class Forgetful(RowStore):
    """Loses the write-backs of one row."""

    def scatter(self, local_rows: Int64Array, rows: Float32Array, between: Callable[[], object] = lambda: None) -> None:
        super().scatter(local_rows[1:], rows[1:], between)


def test_a_lost_write_back_is_noticed() -> None:
    play = Play(replace(SCENARIOS[0], window=0, prefetch_depth=0), num_trainers=1, num_servers=1)
    whole = play.new_store(0)
    with pytest.raises(AssertionError, match="rows fetched by trainer 0 in"):
        run(play, [Forgetful(whole.sharding, 0, play.initializer, whole.rows)])


def test_the_scenarios_are_what_they_say() -> None:
    plays = {scenario.name: Play(scenario, num_trainers=2, num_servers=3) for scenario in SCENARIOS}
    for name in ("full caches", "full caches without prefetch"):
        assert any(trainer.forced_counts.any() for plan in plays[name].plans for trainer in plan.trainers)
    growing = [(s.fetch_ring_rows, s.write_back_ring_rows) for plan in plays["rings grow"].plans for s in plan.servers]
    assert len({fetch for fetch, _ in growing}) > 1
    assert len({write_back for _, write_back in growing}) > 1
    sparse = [plan.trainers[0] for plan in plays["hardly any rows"].plans]
    assert any(0 in plan.fetch_counts.tolist() and plan.fetch_counts.any() for plan in sparse)
    assert len(plays["read-only from the start"].updated_keys) == 0
    assert not any(plan.trainers[0].write_back_counts.any() for plan in plays["read-only from the start"].plans)
