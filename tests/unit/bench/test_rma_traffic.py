"""What the RMA benchmark moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.bench.rma_traffic import (
    Direction,
    RmaTraffic,
    RmaTransport,
    local_rows,
    parse_transports,
    server_plan,
    trainer_plan,
)
from bagpipe_hpc.errors import ConfigError, TopologyError
from bagpipe_hpc.protocol.plan import ServerPlan, TrainerPlan

TRAFFIC = RmaTraffic(servers=2, rows=6, dim=3, table_rows=41, prefetch_depth=1, num_ranks=5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ConfigError, "--dim is 0; give 1 or more"),
        ({"warm_up": -1}, ConfigError, "--warm-up is -1; give 1 or more"),
        ({"warm_up": 41}, ConfigError, "--warm-up is 41, --iterations 40: give at most as many"),
        ({"prefetch_depth": -1}, ConfigError, "--prefetch-depth is -1; give 0 or more"),
        ({"servers": 3, "rows": 7, "num_ranks": 4}, ConfigError, "--rows is 7, --servers 3: give a multiple"),
        ({"servers": 2, "num_ranks": 2}, TopologyError, "start with `mpirun -n 3` or more"),
        ({"table_rows": 100, "rows": 60, "num_ranks": 3}, ConfigError, "2 trainers move 120 different rows"),
    ],
)
def test_options_that_do_not_fit_are_explained(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RmaTraffic(**options)


def test_transports_are_a_list_without_repetitions() -> None:
    assert parse_transports("per-row, staged,per-row") == (RmaTransport.PER_ROW, RmaTransport.STAGED)
    with pytest.raises(ConfigError, match=r"--transport is 'staged,fast'; allowed, .*: staged, direct, per-row"):
        parse_transports("staged,fast")


def test_rows_of_an_iteration_are_distinct_and_the_shards_own() -> None:
    for server in range(2):
        rows = [local_rows(TRAFFIC, server, iteration) for iteration in range(3)]
        assert all(len(np.unique(some)) == 9 for some in rows)  # 3 trainers, 3 rows each from this server
        assert np.concatenate(rows).max() < TRAFFIC.sharding.num_local_rows(server)
        assert not np.array_equal(rows[0], rows[1])
        np.testing.assert_array_equal(rows[0], local_rows(TRAFFIC, server, 0))


@pytest.mark.parametrize("direction", Direction)
def test_servers_and_trainers_plans_fit_together(direction: Direction) -> None:
    other = next(way for way in Direction if way is not direction)
    for iteration in range(4):
        servers = [server_plan(TRAFFIC, server, iteration, direction) for server in range(2)]
        trainers = [trainer_plan(TRAFFIC, trainer, iteration, direction) for trainer in range(3)]
        plans: list[ServerPlan | TrainerPlan] = [*servers, *trainers]
        for plan in plans:
            assert plan.stream_position == iteration
            assert not getattr(plan, f"{other}_counts").any()
            assert plan.fetch_ring_rows == plan.write_back_ring_rows == 9
        for trainer, plan in enumerate(trainers):
            assert getattr(plan, f"{direction}_counts").tolist() == [3, 3]
            assert getattr(plan, f"{direction}_offsets").tolist() == [9 * (iteration % 2) + 3 * trainer] * 2
        for plan in servers:
            assert len(getattr(plan, f"{direction}_rows")) == getattr(plan, f"{direction}_counts").sum() == 9
            assert len(getattr(plan, f"{other}_rows")) == 0
            ours = [getattr(trainer, f"{direction}_offsets")[0] for trainer in trainers]
            assert getattr(plan, f"{direction}_offsets").tolist() == ours
